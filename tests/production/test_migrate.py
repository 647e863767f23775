"""`prod.migrate`: services are migrated in order, and every one is reported."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks.screen.formats.sealed_page import opened
from tests.support.monorepo import USER
from tests.support.observe import assert_no_password, watched_command_lines
from tests.support.postgres import ask
from tests.support.production import admin_url, external
from tests.support.rehearsal import (
    ALPHA,
    BEGINNING,
    COUNT,
    HOST,
    SERVICES,
    TAG,
    YES,
    Rehearsal,
    told,
)

BROKEN = "SELECT 1/0"
ALPHA_URL = "ALPHA_SERVICE_DATABASE_URL"
NO_BACKUP = "No backup was taken by this run"


# Success.


def test_every_service_is_migrated_and_reported_with_its_revisions(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", revisions=("b2", "c3"))
    rehearsal.grow("theta")
    ran = rehearsal.migrate()
    assert ran.code == 0, ran.err
    assert list(ran.statuses) == list(SERVICES)
    assert set(ran.statuses.values()) == {"OK"}
    alpha = told(ran, "alpha")
    assert (alpha["from"], alpha["to"], alpha["detail"]) == ("a1", "c3", "2 revisions applied")
    revisions = alpha["revisions"]
    assert isinstance(revisions, list)
    assert [(r["revision"], r["message"]) for r in revisions] == [
        ("b2", "Revision b2"),
        ("c3", "Revision c3"),
    ]
    assert all(isinstance(r["seconds"], float) for r in revisions)
    beta = told(ran, "beta")
    assert (beta["from"], beta["to"], beta["detail"]) == ("a1", "a1", "nothing pending")
    others = dict.fromkeys(SERVICES, "a1")
    assert rehearsal.all_at() == {**others, "alpha": "c3", "theta": "b2"}


def test_if_nothing_is_pending_no_confirmation_is_asked_and_nothing_is_done(
    rehearsal: Rehearsal,
) -> None:
    before = rehearsal.production.transactions()
    ran = rehearsal.invoke("prod.migrate")
    assert ran.code == 0
    assert "Nothing is pending; nothing was changed." in ran.err
    assert rehearsal.production.transactions() == before


def test_a_dry_run_shows_the_plan_and_leaves_nothing_behind(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    before = rehearsal.production.transactions()
    ran = rehearsal.invoke("prod.migrate", "--dry-run")
    assert ran.code == 0
    assert re.search(r"^alpha\b.*SKIPPED.*\ba1\b.*\bb2\b", ran.out, re.MULTILINE)
    assert "dry run: would migrate huleedu_alpha" in ran.out
    assert not list(rehearsal.runs.glob("*"))
    assert rehearsal.production.transactions() == before


def test_only_the_named_services_are_migrated(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", "beta")
    ran = rehearsal.migrate("--service", "beta")
    assert list(ran.statuses) == ["beta"]
    assert (rehearsal.at("alpha"), rehearsal.at("beta")) == ("a1", "b2")


def test_staging_works_the_same_and_every_screen_names_it(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    ask(rehearsal.production.admin(), f"COMMENT ON DATABASE huleedu_alpha IS '{STAGING_TAG}'")
    port = rehearsal.production.main.port
    unset = dict.fromkeys(rehearsal.production.variables, "")
    variables = unset | external(
        "STAGING",
        "staging",
        port,
        SSLMODE="verify-full",
        SSLROOTCERT=str(rehearsal.production.authority.file),
        PASSWORD=rehearsal.production.password,
    )
    only = ("--service", "alpha")
    refused = rehearsal.invoke("prod.migrate", *only, **variables)
    assert refused.code == 3
    assert "STAGING: standard input is not a terminal" in refused.err
    ran = rehearsal.invoke("prod.migrate", *YES, *only, **variables)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"STAGING: localhost:{port}\n")
    assert ran.err.count(f"STAGING: localhost:{port}\n") == 1
    assert rehearsal.history()[0]["environment"] == "staging"
    assert rehearsal.at("alpha") == "b2"


OFFLINE = """\
import sys

from alembic import context

if context.is_offline_mode():
    context.configure(dialect_name="postgresql")
    context.run_migrations()
    sys.exit()

"""
STAGING_TAG = TAG.replace("production", "staging")


# Failures.


def test_the_first_failure_stops_the_rest_and_the_same_command_resumes(
    rehearsal: Rehearsal,
) -> None:
    place = COUNT // 2
    before, failing, after = SERVICES[:place], SERVICES[place], SERVICES[place + 1 :]
    rehearsal.grow(*before, *after)
    rehearsal.revise(failing, "b2", "a1")
    broken = rehearsal.revise(failing, "c3", "b2", BROKEN)
    ran = rehearsal.migrate()
    assert ran.code == 1
    assert ran.statuses == {
        **dict.fromkeys(SERVICES, "OK"),
        failing: "FAILED",
        **dict.fromkeys(after, "ABORTED"),
    }
    found = told(ran, failing)
    assert "division by zero" in found["detail"]
    assert f"huleedu_{failing} is at a1, and revision c3 was rolled back" in found["detail"]
    assert (found["from"], found["to"], found["revisions"]) == ("a1", "a1", [])
    for name in after:
        assert told(ran, name)["detail"] == f"not begun: {failing} failed"
    untouched = dict.fromkeys(SERVICES, "a1")
    assert rehearsal.all_at() == {**untouched, **dict.fromkeys(before, "b2")}
    (run,) = rehearsal.history()
    assert (run["outcome"], run["migrated"]) == ("FAILED", list(before))
    assert "division by zero" in run["detail"]

    broken.write_text(broken.read_text().replace(BROKEN, "SELECT 1"))
    again = rehearsal.migrate()
    assert again.code == 0
    migrated = dict.fromkeys((*before, *after), "b2")
    assert rehearsal.all_at() == {**untouched, **migrated, failing: "c3"}
    assert [run["outcome"] for run in rehearsal.history()] == ["DONE", "FAILED"]


def test_with_keep_going_the_other_services_are_migrated_after_a_failure(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha", "theta")
    rehearsal.grow("beta", sql=BROKEN)
    ran = rehearsal.migrate("--keep-going")
    assert ran.code == 1
    assert (ran.statuses["beta"], ran.statuses["theta"]) == ("FAILED", "OK")
    assert rehearsal.at("theta") == "b2"


def test_a_canary_goes_first_and_its_failure_stops_all(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", "beta", "theta")
    done = rehearsal.migrate("--first", "theta")
    assert done.code == 0
    events = _events(rehearsal)
    order = [event["service"] for event in events if event["event"] == "migrating"]
    assert order == ["theta", "alpha", "beta"]
    assert list(done.statuses) == list(SERVICES)

    rehearsal.wind_back()
    rehearsal.grow("alpha")
    rehearsal.grow("theta", sql=BROKEN)
    only = ("--service", "alpha", "--service", "theta")
    ran = rehearsal.migrate("--first", "theta", "--keep-going", *only)
    assert (ran.statuses["theta"], ran.statuses["alpha"]) == ("FAILED", "ABORTED")
    assert rehearsal.at("alpha") == "a1"


def test_a_failed_validation_of_one_service_aborts_all(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha", sql="ALTER TABLE note ADD COLUMN colour text")
    rehearsal.grow("beta")
    with rehearsal.production.changed(
        "ALTER TABLE note OWNER TO postgres_admin", f"ALTER TABLE note OWNER TO {USER}"
    ):
        ran = rehearsal.migrate()
    assert ran.code == 1
    assert ran.statuses["alpha"] == "FAILED"
    assert told(ran, "beta")["status"] == "ABORTED"
    assert "validation failed for alpha" in told(ran, "beta")["detail"]
    assert rehearsal.at("beta") == "a1"


@pytest.mark.parametrize("offline", [False, True])
def test_a_service_that_connects_elsewhere_is_stopped_before_anything_runs(
    rehearsal: Rehearsal, offline: bool
) -> None:
    """An env.py that renders SQL without connecting is detected only when it migrates."""
    rehearsal.grow("alpha", "theta")
    elsewhere = rehearsal.production.url(
        rehearsal.production.main.port, "huleedu_beta", tls=rehearsal.production.verified()
    )
    config = "services/alpha_service/config.py"
    usual = rehearsal.monorepo.read(config)
    rehearsal.monorepo.write(
        config, 'import os\n\n\ndef database_url():\n    return os.environ["ELSEWHERE"]\n'
    )
    env = "services/alpha_service/alembic/env.py"
    as_it_was = rehearsal.monorepo.read(env)
    if offline:
        rehearsal.monorepo.write(env, OFFLINE + as_it_was)
    try:
        ran = rehearsal.migrate(ELSEWHERE=elsewhere)
    finally:
        rehearsal.monorepo.write(config, usual)
        rehearsal.monorepo.write(env, as_it_was)
    assert ran.code == 3
    found = told(ran, "alpha")
    assert found["code"] == "target-mismatch"
    assert "connected to huleedu_beta on localhost:" in found["detail"]
    assert "ALPHA_SERVICE_DATABASE_URL" in found["hint"]
    assert rehearsal.all_at() == dict.fromkeys(SERVICES, "a1")


def test_an_env_py_that_reports_false_success_is_detected_in_the_database(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha")
    env = "services/alpha_service/alembic/env.py"
    usual = rehearsal.monorepo.read(env)
    rehearsal.monorepo.write(env, "print('done')\n")
    try:
        ran = rehearsal.migrate(*ALPHA)
    finally:
        rehearsal.monorepo.write(env, usual)
    assert ran.code == 1
    assert "Alembic ended without an error, but huleedu_alpha is at a1, not at b2" in str(
        told(ran, "alpha")["detail"]
    )


# A plan from a file.


def test_exactly_a_plan_is_carried_out(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", "beta")
    assert rehearsal.invoke("prod.plan", "--service", "beta", "--out", "plan.json").code == 0
    ran = rehearsal.migrate("--plan", "plan.json")
    assert ran.code == 0
    assert list(ran.statuses) == ["beta"]
    assert (rehearsal.at("alpha"), rehearsal.at("beta")) == ("a1", "b2")


def test_the_page_that_was_approved_is_carried_out_and_an_edited_one_is_not(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha")
    out = ("--out", "plan.html", "--out", "plan.json")
    ran = rehearsal.invoke("prod.plan", *ALPHA, *out)
    assert ran.code == 0
    page, plan = rehearsal.monorepo.path("plan.html"), rehearsal.monorepo.path("plan.json")
    text = page.read_text(encoding="utf-8")
    assert json.loads(opened(text)) == json.loads(plan.read_text(encoding="utf-8"))
    assert_no_password(text)
    page.write_text(text.replace("production", "staging", 1), encoding="utf-8")
    ran = rehearsal.migrate("--plan", "plan.html")
    assert (ran.code, ran.json["error"]["code"]) == (3, "plan-page-changed")
    assert rehearsal.at("alpha") == "a1"
    page.write_text(text, encoding="utf-8")
    assert rehearsal.migrate("--plan", "plan.html").code == 0
    assert rehearsal.at("alpha") == "b2"


def test_an_empty_plan_changes_nothing_even_if_revisions_were_added_since(
    rehearsal: Rehearsal,
) -> None:
    assert rehearsal.invoke("prod.plan", "--out", "plan.json").code == 0
    rehearsal.grow("alpha")
    ran = rehearsal.migrate("--plan", "plan.json")
    assert (ran.code, ran.statuses) == (0, {})
    assert rehearsal.at("alpha") == "a1"


def test_a_stale_plan_is_refused_with_what_changed(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    assert rehearsal.invoke("prod.plan", *ALPHA, "--out", "plan.json").code == 0
    path = rehearsal.monorepo.path("services/alpha_service/alembic/versions/b2.py")
    planned = path.read_text()
    path.write_text(f"{planned}\n# Nothing but a comment.\n")
    assert "the file of revision b2 has been edited" in _refusal_of_the_plan(rehearsal)
    path.write_text(planned)
    added = rehearsal.revise("alpha", "c3", "b2")
    assert "was planned up to b2, and the head is c3 now" in _refusal_of_the_plan(rehearsal)
    added.unlink()
    plain = rehearsal.production.plain.port
    elsewhere = {ALPHA_URL: rehearsal.production.url(plain, tls={"ssl": "disable"})}
    found = _refusal_of_the_plan(rehearsal, **elsewhere)
    assert "was planned for huleedu_alpha on localhost:" in found
    ask(rehearsal.production.admin(), "UPDATE alembic_version SET version_num = 'gone'")
    assert "not in the revision files" in rehearsal.migrate("--plan", "plan.json").out
    ask(rehearsal.production.admin(), "UPDATE alembic_version SET version_num = 'a1'")
    assert rehearsal.migrate("--plan", "plan.json").code == 0


def _refusal_of_the_plan(rehearsal: Rehearsal, **variables: str) -> str:
    """Run the plan, assert that it is refused without a change, and return the findings."""
    before = rehearsal.production.transactions()
    ran = rehearsal.migrate("--plan", "plan.json", **variables)
    assert ran.code == 3, ran.err
    assert "The plan is stale; nothing was changed." in ran.json["error"]["message"]
    assert rehearsal.production.transactions() == before
    return str(ran.json["error"]["findings"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--plan", "nowhere.json"), "could not be read"),
        (("--plan", "services.json"), "is not a plan"),
        (("--plan", "plan.json", "--service", "alpha"), "--service cannot be combined with --plan"),
        (("--first", "no_such"), "No service is named"),
        (("--service", "alpha", "--first", "beta"), "not among the services"),
        (("--backup-dir", "nowhere"), "is not a directory"),
        (("--report", "nowhere/report"), "could not be written"),
        (("--host", ""), "no service is on"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_done(
    rehearsal: Rehearsal, flags: tuple[str, ...], message: str
) -> None:
    rehearsal.grow("alpha")
    before = rehearsal.production.transactions()
    ran = rehearsal.migrate(*flags)
    assert ran.code in (2, 3)
    assert message in ran.json["error"]["message"]
    assert rehearsal.production.transactions() == before


# Changes after the last comparison of the plan.


def test_a_file_that_is_edited_during_the_backup_is_not_run(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", "beta")
    edit = "sed -i 's/made_by_b2 ()/unwanted ()/' services/alpha_service/alembic/versions/b2.py"
    ran = rehearsal.migrate("--backup-command", edit)
    assert (ran.code, told(ran, "alpha")["code"]) == (3, "plan-changed")
    assert "the file of revision b2 has been edited" in told(ran, "alpha")["detail"]
    assert told(ran, "alpha")["detail"].endswith("huleedu_alpha is at a1")
    assert (rehearsal.at("alpha"), rehearsal.at("beta")) == ("a1", "a1")


def test_a_revision_that_is_added_during_the_backup_is_not_run(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    versions = rehearsal.monorepo.path("services/alpha_service/alembic/versions")
    text = (versions / "b2.py").read_text().replace("b2", "c3").replace("'a1'", "'b2'")
    rehearsal.monorepo.write("later.py", text)
    ran = rehearsal.migrate(*ALPHA, "--backup-command", f"cp later.py {versions}/c3.py")
    assert ran.code == 3
    assert "the head is c3 now" in told(ran, "alpha")["detail"]
    assert rehearsal.at("alpha") == "a1"


def test_a_tag_that_is_set_during_the_backup_is_not_overwritten(rehearsal: Rehearsal) -> None:
    admin = rehearsal.production.admin()
    ask(admin, "COMMENT ON DATABASE huleedu_alpha IS NULL")
    rehearsal.monorepo.write("tag.sql", f"COMMENT ON DATABASE huleedu_alpha IS '{STAGING_TAG}'")
    ran = rehearsal.migrate(*ALPHA, "--backup-command", f"psql '{admin}' -f tag.sql")
    assert ran.code == 1
    assert "its environment tag was changed after the plan was made" in told(ran, "alpha")["detail"]
    assert rehearsal.comment("alpha") == STAGING_TAG


# The environment tag.


def test_an_edit_of_an_applied_revision_is_a_warning(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    ran = rehearsal.migrate(*ALPHA)
    assert (ran.code, [note for note in ran.json["notes"] if "INFO" in note]) == (0, [])
    assert rehearsal.comment("alpha").count('"b2"') == 1
    assert told(rehearsal.invoke("prod.validate", "--json", *ALPHA), "alpha")["problems"] == []
    rehearsal.revise("alpha", "b2", "a1", "SELECT 2")
    (problem,) = told(rehearsal.invoke("prod.validate", "--json", *ALPHA), "alpha")["problems"]
    assert (problem["level"], problem["code"]) == ("WARNING", "revision-edited")
    assert problem["cause"].startswith("revision b2 was edited after it was applied on 20")


def test_an_untagged_database_is_tagged_and_no_reset_touches_it_from_then_on(
    rehearsal: Rehearsal,
) -> None:
    ask(rehearsal.production.admin(), "COMMENT ON DATABASE huleedu_alpha IS 'Our essays.'")
    planned = rehearsal.invoke("prod.plan", "--json")
    assert told(planned, "alpha")["detail"] == "nothing pending, will be tagged as production"
    assert rehearsal.invoke("prod.migrate").code == 3
    ran = rehearsal.migrate()
    assert ran.code == 0
    assert "tagged as production" in told(ran, "alpha")["detail"]
    assert rehearsal.comment("alpha").startswith(f"Our essays.{TAG[:-1]}")
    development = {
        "HULEEDU_ENVIRONMENT": "development",
        "HULEEDU_PROVIDER": "existing",
        ALPHA_URL: rehearsal.production.url(
            rehearsal.production.main.port, tls=rehearsal.production.verified()
        ),
    }
    reset = rehearsal.invoke(
        "db.reset", "--service", "alpha", "--confirm", "huleedu_alpha", **development
    )
    assert reset.code == 3
    assert "is tagged as production" in reset.out
    assert rehearsal.at("alpha") == "a1"


def test_for_a_role_that_may_not_tag_the_statement_for_the_owner_is_shown(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha")
    server = admin_url(rehearsal.production.main, "postgres")
    ask(
        server,
        "ALTER DATABASE huleedu_alpha OWNER TO postgres_admin",
        "COMMENT ON DATABASE huleedu_alpha IS NULL",
    )
    ran = rehearsal.migrate()
    assert ran.code == 0
    (unrecorded,) = [note for note in ran.json["notes"] if note.startswith("INFO")]
    assert "edits of the revision files of alpha are not detected" in unrecorded
    (found,) = rehearsal.invoke("prod.validate", "--json", "--service", "alpha").json["services"]
    (problem,) = found["problems"]
    assert problem["level"] == "WARNING"
    statement = problem["remedy"].partition(": ")[2].rstrip(".")
    ask(server, statement)
    assert rehearsal.comment("alpha").startswith(TAG[:-1])
    assert not rehearsal.migrate().json["services"][0].get("problems")


# Backups.


def test_a_backup_command_runs_before_the_first_change_and_knows_the_services(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha", "theta")
    command = 'echo "$HULEEDU_BACKUP_SERVICES" > saved; ls services > listed'
    ran = rehearsal.migrate("--backup-command", command)
    assert ran.code == 0
    assert rehearsal.monorepo.read("saved") == "alpha theta\n"
    assert not any(note.startswith(NO_BACKUP) for note in ran.json["notes"])
    events = [event["event"] for event in _events(rehearsal)]
    assert events.index("backed up") < events.index("migrating")


def test_a_failed_backup_leaves_every_database_unchanged(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    rehearsal.grow("alpha")
    ran = rehearsal.migrate(*ALPHA, "--backup-command", "echo no room >&2; exit 7")
    assert ran.code == 1
    assert "failed with exit code 7" in ran.json["error"]["message"]
    assert "no room" in ran.json["error"]["output"]
    ask(
        rehearsal.production.admin(),
        "CREATE SCHEMA theirs",
        "CREATE TABLE theirs.secret ()",
    )
    ran = rehearsal.migrate(*ALPHA, "--backup-dir", str(tmp_path))
    assert ran.code == 1
    assert "permission denied for schema theirs" in ran.json["error"]["output"]
    assert rehearsal.at("alpha") == "a1"
    assert [run["outcome"] for run in rehearsal.history()] == ["FAILED", "FAILED"]


def test_each_changing_database_is_dumped_and_the_dump_restores_it(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    rehearsal.grow("alpha", "theta", sql="DELETE FROM note")
    ask(rehearsal.production.admin(), "INSERT INTO note VALUES (1, 'kept')")
    with watched_command_lines(forks=True) as lines:
        ran = rehearsal.migrate("--backup-dir", str(tmp_path))
    assert ran.code == 0
    assert lines.any_has("pg_dump")
    assert_no_password(*lines.seen)
    dumps = {path.name.split("-")[1]: path for path in tmp_path.iterdir()}
    assert sorted(dumps) == ["huleedu_alpha", "huleedu_theta"]
    assert {path.stat().st_mode & 0o777 for path in dumps.values()} == {0o600}
    assert "1\tkept" in _rows_in(dumps["huleedu_alpha"])


# The record.


def test_a_dump_ignores_the_libpq_variables_of_the_environment(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    rehearsal.grow("alpha")
    ask(rehearsal.production.admin(), "INSERT INTO note VALUES (1, 'kept')")
    services = tmp_path / "services.conf"
    services.write_text("[decoy]\nhost=127.0.0.1\nport=1\n")
    variables = {"PGSERVICE": "decoy", "PGSERVICEFILE": str(services), "PGHOSTADDR": "127.0.0.2"}
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    ran = rehearsal.migrate(*ALPHA, "--backup-dir", str(dumps), **variables)
    assert ran.code == 0, ran.err
    (dump,) = dumps.iterdir()
    assert "1\tkept" in _rows_in(dump)


def test_a_write_error_of_the_report_does_not_stop_a_run_that_has_begun(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha")
    refused = rehearsal.migrate("--report", "/dev/full")
    assert refused.code == 2
    assert "/dev/full is not complete: No space left" in refused.json["error"]["message"]
    assert rehearsal.at("alpha") == "a1"
    fifo = rehearsal.monorepo.root / "report"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.DEVNULL) as reader:
        done = rehearsal.migrate("--report", "report", "--backup-command", f"kill {reader.pid}")
    fifo.unlink()
    assert done.code == 0, done.err
    assert f"The record in {fifo} is not complete: Broken pipe." in done.err
    assert [run["outcome"] for run in rehearsal.history()] == ["DONE", "USAGE"]


def test_a_run_without_a_backup_is_recorded_shown_and_reported_with_every_step(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    rehearsal.grow("alpha")
    copy = tmp_path / "report.jsonl"
    ran = rehearsal.migrate(*ALPHA, "--report", str(copy))
    assert ran.code == 0
    assert any(note.startswith(NO_BACKUP) for note in ran.json["notes"])
    (path,) = rehearsal.runs.glob("*")
    assert copy.read_text() == path.read_text()
    events = _events(rehearsal)
    assert [event["event"] for event in events] == [
        "began",
        "planned",
        "confirmed",
        "locked",
        "not backed up",
        "migrating",
        "migrated",
        "ended",
    ]
    began, planned, *_, migrated, ended = events
    assert {"user", "host", "pid", "commit", "environment"} <= set(began)
    assert planned["services"][0]["service"] == "alpha"
    assert (migrated["before"], migrated["at"]) == (["a1"], ["b2"])
    assert ended["outcome"] == "DONE"
    (run,) = rehearsal.history()
    shown = rehearsal.invoke("prod.history", "--run", run["run"])
    assert "migrated" in shown.out
    wrong = rehearsal.invoke("prod.history", "--run", "1999")
    assert wrong.code == 2
    assert run["run"] in wrong.err


def test_refusals_are_recorded_too(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    rehearsal.invoke("prod.migrate", *ALPHA)
    rehearsal.invoke("prod.migrate", *ALPHA, "--yes", "--host", "elsewhere")
    outcomes = [(run["outcome"], run["detail"]) for run in rehearsal.history()]
    assert [outcome for outcome, _ in outcomes] == ["REFUSED", "REFUSED"]
    assert f"{HOST} is missing" in outcomes[0][1]


def test_the_rehearsal_is_reset_to_its_initial_state(rehearsal: Rehearsal) -> None:
    admin = admin_url(rehearsal.production.main, BEGINNING)
    assert ask(admin, "SELECT version_num FROM alembic_version") == [("a1",)]


def _rows_in(dump: Path) -> str:
    """Return the rows of `note` in a dump."""
    command = ["pg_restore", "--data-only", "--table=note", "--file=-", str(dump)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _events(rehearsal: Rehearsal) -> list[dict[str, Any]]:
    """Return the lines of the only record."""
    (path,) = rehearsal.runs.glob("*")
    return [json.loads(line) for line in path.read_text().splitlines()]
