"""The commands for development databases, from a new clone on."""

import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.support.monorepo import PASSWORD, USER, Monorepo, new_monorepo
from tests.support.observe import (
    FORK_LOOP,
    assert_no_password,
    assert_no_password_in_files,
    assert_no_password_on_screen,
    database,
    files,
    log_in,
    notes,
    processes,
    watched_command_lines,
)

SERVICES = ("alpha", "beta", "gamma")
EXAMPLE = """\
# Connection settings in the example file.
HULEEDU_ENVIRONMENT=development

HULEEDU_DB_USER=school_user
HULEEDU_DB_PASSWORD=change-me  # written by env.init
OTHER_SETTING=kept
"""
# The commands that change something, with the flags they need.
CHANGING = (
    ["env.init"],
    ["db.up"],
    ["db.down"],
    ["db.reset"],
    ["db.migrate"],
    ["db.prepare"],
    ["db.seed"],
    ["db.shell", "--service", "alpha", "--command", "DROP TABLE note"],
)
REPORTING = (
    "env.init",
    "env.show",
    "services.list",
    "db.url",
    "db.down",
    "db.up",
    "db.reset",
    "db.migrate",
    "db.prepare",
    "db.seed",
    "db.status",
)


def details(ran_json: Mapping[str, Any]) -> set[str]:
    return {row["detail"] for row in ran_json["services"]}


# `env.init`.


@pytest.fixture
def new() -> Iterator[Monorepo]:
    """Return a new clone: no `.env`, no running server."""
    with new_monorepo(("alpha",)) as made:
        made.path(".env").unlink()
        yield made


def password_in(monorepo: Monorepo) -> str:
    (line,) = (line for line in monorepo.read(".env").splitlines() if "DB_PASSWORD" in line)
    return line.partition("=")[2]


def test_env_init_fills_the_example_with_a_password_only_its_owner_can_read(new: Monorepo) -> None:
    new.write("env.example", EXAMPLE)
    ran = new.invoke("env.init")
    password = password_in(new)
    assert ran.code == 0
    assert str(new.path(".env")) in ran.out
    assert password not in ran.out + ran.err
    assert len(password) >= 20
    assert new.read(".env") == EXAMPLE.replace("change-me  # written by env.init", password)
    assert stat.S_IMODE(new.path(".env").stat().st_mode) == 0o600


def test_env_init_adds_missing_lines_and_changes_no_others(new: Monorepo) -> None:
    new.write(".env", "MINE=1\n")
    added = new.invoke("env.init")
    written = new.read(".env")
    assert added.code == 0
    assert written.startswith("MINE=1\nHULEEDU_DB_USER=huleedu_user\nHULEEDU_DB_PASSWORD=")
    assert "HULEEDU_DB_PASSWORD=***" in added.out
    again = new.invoke("env.init")
    assert (again.code, new.read(".env")) == (0, written)
    assert "it was not changed" in again.out


@pytest.mark.parametrize(
    ("example", "variables", "words"),
    [
        (EXAMPLE, {"HULEEDU_REGISTRY": "/proc/version"}, "/proc/version is not JSON"),
        ("caf\u00e9", {}, "env.example could not be read"),
    ],
)
def test_env_init_names_the_file_that_it_cannot_read_or_write(
    new: Monorepo, example: str, variables: Mapping[str, str], words: str
) -> None:
    new.path("env.example").write_bytes(example.encode("latin-1"))
    ran = new.invoke("env.init", env=variables)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert "What to do: " in ran.err
    assert not new.path(".env").exists()


def test_a_clone_is_brought_up_by_one_command_line_that_may_be_repeated(new: Monorepo) -> None:
    for _ in range(2):
        ran = new.invoke("env.init", "db.reset")
        assert ran.code == 0, ran.err
        password = password_in(new)
        assert log_in(new.url("alpha", password=password).replace(USER, "huleedu_user"), "SELECT 1")
        assert password not in ran.out + ran.err


# Every command, on existing databases.


def test_a_reset_brings_every_service_to_head_with_its_seeds(running: Monorepo) -> None:
    ran = running.invoke("db.reset", "--json")
    assert (ran.code, set(ran.statuses.values())) == (0, {"OK"})
    assert {database(running, name).revision for name in SERVICES} == {"a1"}
    assert {notes(running, name) for name in SERVICES} == {"first second"}
    status = running.invoke("db.status", "--check", "--json")
    assert status.code == 0
    assert [(row["pending"], row["seeded"]) for row in status.json["services"]] == [(0, "yes")] * 3


def test_every_command_prints_one_json_document_and_nothing_else(running: Monorepo) -> None:
    for name in REPORTING:
        ran = running.invoke_afresh(name, "--json")
        assert ran.code == 0, ran.err
        document = ran.json
        assert (document["command"], document["schema_version"], document["exit_code"]) == (
            name,
            1,
            0,
        )
        if name.startswith("db.") and "services" in document:
            assert [row["service"] for row in document["services"]] == list(SERVICES)
        assert_no_password_on_screen(ran)


def test_an_error_is_a_json_document_too(running: Monorepo) -> None:
    ran = running.invoke("db.status", "--service", "alhpa", "--json")
    assert (ran.code, ran.json["schema_version"], ran.json["exit_code"]) == (2, 1, 2)
    assert ran.json["error"]["hint"] == "Did you mean 'alpha'?"


def test_every_command_works_from_a_directory_below(running: Monorepo) -> None:
    ran = running.invoke(*REPORTING, cwd="services/alpha_service/alembic/versions")
    assert ran.code == 0, ran.err
    assert (running.path("services/alpha_service/.huleedu").exists()) is False
    assert notes(running, "alpha") == "first second"


def test_progress_in_a_pipe_is_plain_lines_on_standard_error(running: Monorepo) -> None:
    ran = running.invoke("db.reset", "--fresh")
    assert "\x1b" not in ran.out + ran.err
    assert "\r" not in ran.out + ran.err
    head, *rows = ran.out.splitlines()
    assert head.split() == ["service", "status", "from", "to", "time", "detail"]
    assert [row.split()[:2] for row in rows] == [[name, "OK"] for name in SERVICES]
    for name in SERVICES:
        steps = re.findall(rf"^{name}: (\w+)$", ran.err, re.MULTILINE)
        assert steps == ["starting", "recreating", "migrating", "seeding"]
    assert re.search(r"^db\.reset: 3 OK in [\d.]+ s \(development; embedded: ", ran.err, re.M)


def test_down_keeps_the_data_and_up_finds_it(running: Monorepo) -> None:
    before = [database(running, name) for name in SERVICES]
    assert details(running.invoke("db.down", "--json").json) == {"stopped"}
    assert not processes(running)
    ran = running.invoke("db.down", "db.up", "--json")
    assert ran.code == 0
    assert "not running" in ran.out
    _, _, document = ran.out.partition("{")
    assert {row["server"] for row in json.loads("{" + document)["services"]} == {"started"}
    assert [database(running, name) for name in SERVICES] == before


def test_status_check_exits_with_4_if_a_database_is_behind_or_unreachable(
    running: Monorepo,
) -> None:
    revision = running.add_revision("beta", "b2", "a1")
    behind = running.invoke("db.status", "--check", "--json")
    assert behind.code == 4
    assert [row["pending"] for row in behind.json["services"]] == [0, 1, 0]
    assert running.invoke("db.status", "--check", "--service", "alpha").code == 0
    assert running.invoke("db.status").code == 0
    revision.unlink()
    running.invoke("db.down", "--service", "gamma")
    unreachable = running.invoke("db.status", "--check", "--json")
    assert unreachable.code == 4
    assert unreachable.statuses == {"alpha": "OK", "beta": "OK", "gamma": "SKIPPED"}
    assert unreachable.json["services"][2]["hint"] == (
        "`invoke db.up` starts the development servers."
    )
    running.invoke("db.up", "--service", "gamma")


def test_migrate_upgrades_to_a_revision_then_to_head_and_then_changes_nothing(
    running: Monorepo,
) -> None:
    revisions = [
        running.add_revision("beta", "b2b2b2", "a1", "CREATE TABLE second ()"),
        running.add_revision("beta", "c3c3c3", "b2b2b2", "CREATE TABLE third ()"),
    ]
    for arguments, moved, detail in [
        (["--revision", "b2b2"], ("a1", "b2b2b2"), "migrated"),
        ([], ("b2b2b2", "c3c3c3"), "migrated"),
        ([], ("c3c3c3", "c3c3c3"), "already there"),
    ]:
        ran = running.invoke("db.migrate", "--service", "beta", "--json", *arguments)
        (row,) = ran.json["services"]
        assert (ran.code, row["detail"], (row["from"], row["to"])) == (0, detail, moved)
    back = running.invoke("db.migrate", "--service", "beta", "--revision", "a1", "--json")
    assert (back.code, back.statuses) == (1, {"beta": "FAILED"})
    assert "is at c3c3c3, which is past a1" in back.json["services"][0]["detail"]
    for revision in revisions:
        revision.unlink()
    lost = running.invoke("db.migrate", "--service", "beta", "--json")
    assert lost.code == 1
    assert "Check out the branch" in lost.json["services"][0]["hint"]
    assert running.invoke("db.reset", "--service", "beta").code == 0


def test_seeding_again_changes_nothing_and_a_changed_seed_shows_in_status(
    running: Monorepo,
) -> None:
    before = database(running, "alpha")
    seed = running.path("database/seed-scripts/seed_alpha.py")
    assert running.invoke("db.seed", "--service", "alpha").code == 0
    # Except that the next reset keeps it for db.undo.
    untouched = re.compile(r', "untouched": "[^"]*"')
    assert database(running, "alpha") == replace(before, comment=untouched.sub("", before.comment))
    text = seed.read_text()
    seed.write_text(text.replace("'second'", "'other'"))
    status = running.invoke("db.status", "--service", "alpha", "--json")
    assert status.json["services"][0]["seeded"] == "changed since"
    seed.write_text(text)


def test_seeds_require_a_database_at_head(running: Monorepo) -> None:
    revision = running.add_revision("alpha", "b2", "a1")
    ran = running.invoke("db.seed", "--service", "alpha", "--json")
    (row,) = ran.json["services"]
    assert (ran.code, row["status"]) == (3, "FAILED")
    assert "is at a1, and its seeds are written for b2" in row["detail"]
    assert row["hint"] == "Run `invoke db.migrate` first."
    revision.unlink()


def test_a_service_is_found_by_its_name_and_by_its_directory(running: Monorepo) -> None:
    before = database(running, "alpha")
    ran = running.invoke(
        "db.reset", "--json", "--service", "gamma_service", "--service", "beta", "--service", "beta"
    )
    assert list(ran.statuses) == ["beta", "gamma"]
    assert database(running, "alpha") == before


def test_services_list_shows_the_entries_of_the_registry(running: Monorepo) -> None:
    rows = running.invoke("services.list", "--json").json["services"]
    assert [row["name"] for row in rows] == list(SERVICES)
    assert rows[1] | {"missing": []} == rows[1]
    assert (rows[1]["port"], rows[1]["database"]) == (running.port("beta"), "huleedu_beta")
    assert rows[1]["seeds"] == ["database/seed-scripts/seed_beta.py"]
    assert rows[1]["url_variable"] == "BETA_SERVICE_DATABASE_URL"


def test_services_list_shows_no_volume_that_the_compose_file_does_not_have(
    running: Monorepo,
) -> None:
    image = "image: 'postgres:15'"
    data = "volumes: ['beta_db_data:/var/lib/postgresql/data']"
    services = f"{{alpha_db: {{{image}}}, beta_db: {{{image}, {data}}}}}"
    path = running.write("compose.yaml", f"services: {services}\nvolumes: {{beta_db_data: }}\n")
    try:
        rows = running.invoke("services.list", "--json").json["services"]
    finally:
        path.unlink()
    assert [row["volume"] for row in rows] == [None, "beta_db_data", "gamma_db_data"]


# Passwords in output and arguments.


def test_env_show_shows_the_source_of_every_value_and_masks_secrets(
    running: Monorepo,
) -> None:
    override = f"postgresql+asyncpg://me:hush-hush@localhost:{running.port('beta')}/huleedu_beta"
    variables = {"BETA_SERVICE_DATABASE_URL": override, "HULEEDU_JOBS": "3"}
    ran = running.invoke("env.show", "--json", env=variables)
    shown = {row["variable"]: (row["value"], row["source"]) for row in ran.json["settings"]}
    assert shown["HULEEDU_DB_USER"] == (USER, ".env line 1")
    assert shown["HULEEDU_DB_PASSWORD"] == ("***", ".env line 2")
    assert shown["HULEEDU_ENVIRONMENT"] == ("development", "default")
    assert shown["HULEEDU_JOBS"] == ("3", "environment")
    assert shown["HULEEDU_PROD_DB_HOST"] == (None, "not set")
    assert shown["BETA_SERVICE_DATABASE_URL"] == ("***", "environment")
    assert_no_password_on_screen(ran)


def test_a_url_is_masked_unless_its_password_is_asked_for_and_then_logs_in(
    running: Monorepo,
) -> None:
    masked = running.invoke("db.url", "--service", "alpha")
    assert masked.out == (
        f"postgresql+asyncpg://{USER}:***@localhost:{running.port('alpha')}/huleedu_alpha\n"
    )
    assert masked.err == ""
    revealed = running.invoke("db.url", "--service", "alpha", "--show-password").out.strip()
    assert log_in(revealed, "SELECT current_database()::text") == "huleedu_alpha"


def test_the_shell_runs_sql_and_its_arguments_have_no_password(running: Monorepo) -> None:
    sleep = "SELECT 'was here', pg_sleep(1)"
    with watched_command_lines(forks=True) as lines:
        shell = running.fork("db.shell", "--service", "alpha", "--command", sleep)
        out, err = shell.communicate(timeout=30)
    assert (shell.returncode, "was here" in out) == (0, True), err
    assert [line for line in lines.seen if "psql" in line and sleep in line]
    assert_no_password(*lines.seen, out, err)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--service", "alpha", "--command", "SELECT nonsense"], 1, "nonsense"),
        ([], 2, "What to do: Name one service, for example --service alpha"),
    ],
)
def test_the_shell_fails_if_its_sql_fails_or_no_service_is_selected(
    running: Monorepo, arguments: list[str], code: int, said: str
) -> None:
    ran = running.invoke("db.shell", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err


def test_the_shell_on_a_stopped_server_names_the_command_that_starts_it(new: Monorepo) -> None:
    new.write(".env", f"HULEEDU_DB_USER={USER}\nHULEEDU_DB_PASSWORD=x\n")
    ran = new.invoke("db.shell", "--service", "alpha")
    assert (ran.code, ran.out) == (1, "")
    assert f"Nothing answers at localhost:{new.port('alpha')}: Connection refused." in ran.err
    assert "What to do: `invoke db.up` starts" in ran.err


def test_the_password_is_in_no_output_no_file_and_no_command_line() -> None:
    with new_monorepo(("alpha",)) as monorepo, watched_command_lines() as lines:
        monorepo.add_revision("alpha", "b2", "a1", "SELECT no_such_function()")
        failed = monorepo.invoke("db.reset")
        assert failed.code == 1
        monorepo.path("services/alpha_service/alembic/versions/b2.py").unlink()
        lived = monorepo.invoke("db.reset", "db.status", "db.url", "env.show", "db.migrate")
        assert lived.code == 0, lived.err
        assert_no_password_in_files(monorepo.state)
        assert monorepo.invoke("db.down").code == 0
    assert all(any(program in line for line in lines.seen) for program in ("initdb", FORK_LOOP))
    assert_no_password(*lines.seen, failed.out, failed.err, lived.out, lived.err)


# Dry runs.


@pytest.mark.parametrize("dry", ["--dry", "--dry-run"])
def test_a_dry_run_changes_no_running_server(running: Monorepo, dry: str) -> None:
    revision = running.add_revision("alpha", "b2", "a1", "CREATE TABLE second ()")
    before = _state(running)
    ran = running.invoke(*_dry(dry))
    assert ran.code == 0, ran.err
    assert _state(running) == before
    for command in ("db.up", "db.down", "db.reset", "db.migrate", "db.seed"):
        assert f"{command}: 3 SKIPPED" in ran.err
    assert ran.out.count("dry run: would recreate huleedu_") == 3
    assert "db.shell: dry run: would open psql" in ran.err
    revision.unlink()


@pytest.mark.parametrize("dry", ["--dry", "--dry-run"])
def test_a_dry_run_creates_nothing_in_a_new_clone(new: Monorepo, dry: str) -> None:
    login = {"HULEEDU_DB_USER": USER, "HULEEDU_DB_PASSWORD": PASSWORD}
    before = files(new.root.parent)
    ran = new.invoke(*_dry(dry), env=login)
    assert ran.code == 0, ran.err
    assert f"dry run: would write {new.path('.env')}" in ran.out
    assert files(new.root.parent) == before
    assert not new.state.exists()
    assert not processes(new)


def _dry(flag: str) -> list[str]:
    if flag == "--dry":
        return [flag, *(word for command in CHANGING for word in command)]
    return [word for command in CHANGING for word in (*command, flag)]


def _state(monorepo: Monorepo) -> tuple[object, ...]:
    databases = [database(monorepo, name) for name in SERVICES]
    directories = sorted(map(str, monorepo.state.glob("*/*/*")))
    return databases, processes(monorepo), files(monorepo.root), directories
