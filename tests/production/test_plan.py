"""`prod.plan`: the pending changes of each database, read-only."""

import hashlib
import json
import re
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.monorepo import REVISION, USER, Ran, free_ports
from tests.support.observe import (
    FORK_LOOP,
    WORKER,
    assert_no_password,
    files,
    watched_command_lines,
)
from tests.support.postgres import ask, changes
from tests.support.production import Production, external, problems, selected

NAMES = ("alpha", "beta", "gamma")
AT = "UPDATE alembic_version SET version_num = "
FILLED = ("INSERT INTO note VALUES (1, 'one')", "TRUNCATE note")
INDEX = "CREATE INDEX by_text ON note (text)"
MEMO = "CREATE TABLE memo (id integer)"
DROPPED = "ALTER TABLE note DROP COLUMN text"
READS = """\
import sqlalchemy as sa
for row in op.get_bind().execute(sa.text("SELECT text FROM note")):
    op.execute("INSERT INTO memo VALUES (1)")
"""
TAG = """COMMENT ON DATABASE huleedu_alpha IS 'huleedu-tasks {{"environment": "{}"}}'"""
UNMARKED = "COMMENT ON DATABASE huleedu_alpha IS NULL"


def plan(production: Production, *arguments: str, **variables: str) -> Ran:
    """Run `prod.plan`, and assert that neither it nor an `env.py` changed anything."""
    before, said = production.transactions(), len(production.log)
    ran = production.invoke("prod.plan", *arguments, **variables)
    assert production.transactions() == before
    assert changes(production.log[said:]) == []
    return ran


def planned(ran: Ran, name: str = "alpha") -> dict[str, Any]:
    """Return the JSON object of a service."""
    (found,) = [row for row in ran.json["services"] if row["service"] == name]
    return dict(found)


def sql_of(found: dict[str, Any]) -> dict[str, str | None]:
    """Return the SQL by revision, without surrounding white space; `None` if not rendered."""
    sql = {revision["revision"]: revision["sql"] for revision in found["revisions"]}
    return {name: text if text is None else text.strip() for name, text in sql.items()}


@contextmanager
def pending(production: Production, name: str = "alpha", **revisions: str) -> Iterator[list[Path]]:
    """Add revisions after `a1` for the time of a `with` block.

    Args:
        revisions: The SQL by revision, or the body of its `upgrade()` if it has several lines.
    """
    parent, paths = "a1", []
    for revision, text in revisions.items():
        body = text if "\n" in text else f"op.execute({text!r})"
        source = REVISION.format(
            message=f"Revision {revision}",
            id=revision,
            parent=parent,
            upgrade=textwrap.indent(body, "    "),
        )
        file = f"services/{name}_service/alembic/versions/{revision}.py"
        paths.append(production.monorepo.write(file, source))
        parent = revision
    try:
        yield paths
    finally:
        for path in paths:
            path.unlink()


@pytest.fixture
def behind(production: Production) -> Iterator[list[Path]]:
    """Put alpha three revisions behind head, with rows in its table."""
    with (
        production.changed(*FILLED),
        pending(production, b2=INDEX, c3=MEMO, d4=DROPPED) as paths,
    ):
        yield paths


# Pending revisions.


def test_if_nothing_is_pending_the_plan_states_it_and_starts_no_alembic(
    production: Production,
) -> None:
    with watched_command_lines() as lines:
        ran = plan(production, "--json")
    assert ran.code == 0
    for name in NAMES:
        found = planned(ran, name)
        assert (found["status"], found["detail"]) == ("OK", "nothing pending")
        assert (found["from"], found["to"], found["pending"]) == ("a1", "a1", 0)
        assert found["revisions"] == found["problems"] == []
    root = str(production.monorepo.root)
    assert lines.any_has("prod.plan")
    assert not [line for line in lines.seen if WORKER in line and root in line]


def test_each_revision_is_shown_with_its_message_sql_and_locks(
    production: Production, behind: list[Path]
) -> None:
    with watched_command_lines() as lines:
        ran = plan(production, "--json")
    assert ran.code == 0
    assert list(ran.statuses.items()) == [(name, "OK") for name in NAMES]
    found = planned(ran)
    assert (found["from"], found["to"], found["pending"]) == ("a1", "d4", 3)
    assert sql_of(found) == {"b2": f"{INDEX};", "c3": f"{MEMO};", "d4": f"{DROPPED};"}
    for revision, path in zip(found["revisions"], behind, strict=True):
        assert revision["message"] == f"Revision {path.stem}"
        assert revision["path"] == str(path.relative_to(production.monorepo.root))
        assert revision["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    index, _, dropped = ([p["cause"] for p in r["problems"]] for r in found["revisions"])
    assert "builds the index 'by_text' on 'note' (8 kB)" in index[0]
    assert "drops the column 'text' of 'note' (8 kB)" in dropped[0]
    assert planned(ran, "beta")["revisions"] == []
    assert lines.any_has(FORK_LOOP)
    assert_no_password(*lines.seen)


@pytest.mark.usefixtures("behind")
def test_the_screen_begins_with_a_summary_and_shows_each_danger_once(
    production: Production,
) -> None:
    ran = plan(production)
    assert ran.code == 0
    assert ran.out.startswith(f"PRODUCTION: localhost:{production.main.port}\n")
    _, table, dangers = ran.out.split("\n\n")
    header, alpha, *_ = table.splitlines()
    assert header.split() == [
        *("service", "status", "from", "to", "pending"),
        *("destroys", "locks", "other", "style", "detail"),
    ]
    assert alpha.split()[:7] == ["alpha", "OK", "a1", "d4", "3", "1", "1"]
    lines = dangers.splitlines()
    shown = [line for line in lines if line.startswith("WARNING")]
    assert shown[0].startswith("WARNING  alpha b2: builds the index 'by_text'")
    assert shown[1].startswith("WARNING  alpha d4: drops the column 'text'")
    assert len(shown) == 2
    assert f"    {INDEX}" in lines
    assert f"    {DROPPED}" in lines
    assert "postgresql_concurrently=True" in dangers
    assert MEMO not in ran.out
    assert "Next: run the same command with `--out FILE`" in ran.err


@pytest.mark.usefixtures("behind")
def test_the_sql_is_shown_on_request(production: Production) -> None:
    ran = plan(production, "--sql")
    lines = ran.out[ran.out.index("alpha: a1 -> d4") :].splitlines()
    path = "services/alpha_service/alembic/versions"
    shown = [f"  {name}  Revision {name}  ({path}/{name}.py)" for name in ("b2", "c3", "d4")]
    sql = [f"      {statement};" for statement in (INDEX, MEMO, DROPPED)]
    places = [lines.index(line) for pair in zip(shown, sql, strict=True) for line in pair]
    assert places == sorted(places)
    assert ran.out.count("builds the index 'by_text'") == 1
    assert "beta: a1" not in ran.out


def test_on_an_empty_table_an_index_is_no_hazard(production: Production) -> None:
    with pending(production, b2=INDEX):
        (revision,) = planned(plan(production, "--json", "--service", "alpha"))["revisions"]
    assert revision["problems"] == []


def test_a_table_of_an_earlier_pending_revision_is_not_in_use_yet(production: Production) -> None:
    index = "CREATE INDEX by_id ON memo (id)"
    with production.changed(*FILLED), pending(production, b2=MEMO, c3=index):
        found = planned(plan(production, "--json", "--service", "alpha"))
    assert not [p for p in found["revisions"][1]["problems"] if "memo" in p["cause"]]


def test_a_plan_starts_from_the_revision_the_database_has(production: Production) -> None:
    with (
        pending(production, b2=MEMO, c3=INDEX),
        production.changed(f"{AT} 'b2'", f"{AT} 'a1'"),
    ):
        found = planned(plan(production, "--json"))
    assert (found["from"], found["to"], found["pending"]) == ("b2", "c3", 1)
    assert sql_of(found) == {"c3": f"{INDEX};"}


def test_a_database_with_no_revision_yet_is_planned_from_the_beginning(
    production: Production,
) -> None:
    with production.changed(
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('a1')",
    ):
        found = planned(plan(production, "--json", "--service", "alpha"))
    assert (found["from"], found["to"]) == ("no revision", "a1")
    assert "CREATE TABLE note" in str(sql_of(found)["a1"])
    assert "alembic_version" not in str(sql_of(found)["a1"])


# SQL that cannot be rendered.


def test_a_revision_that_reads_data_is_named_and_the_rest_is_planned(
    production: Production,
) -> None:
    with pending(production, b2=MEMO, c3=READS, d4="DROP TABLE memo"):
        ran = plan(production, "--json")
        shown = plan(production, "--sql").out
    assert ran.code == 0
    assert set(ran.statuses.values()) == {"OK"}
    found = planned(ran)
    assert sql_of(found) == {"b2": f"{MEMO};", "c3": None, "d4": "DROP TABLE memo;"}
    (problem,) = found["revisions"][1]["problems"]
    assert problem["level"] == "WARNING"
    assert "its SQL cannot be rendered before it runs" in problem["cause"]
    assert "Read c3.py" in problem["remedy"]
    assert "  c3  Revision c3" in shown
    assert "WARNING  alpha c3: its SQL cannot be rendered before it runs" in shown
    assert "      DROP TABLE memo;" in shown


def test_if_alembic_renders_no_sql_the_revisions_are_named_with_the_cause(
    production: Production,
) -> None:
    path = "services/alpha_service/alembic/env.py"
    env_py = production.monorepo.read(path)
    production.monorepo.write(path, "raise LookupError('no such region')\n")
    try:
        with pending(production, b2=MEMO):
            ran = plan(production, "--json")
    finally:
        production.monorepo.write(path, env_py)
    (revision,) = planned(ran)["revisions"]
    assert revision["sql"] is None
    assert "LookupError: no such region" in revision["problems"][0]["cause"]
    assert planned(ran, "beta")["status"] == "OK"


# Databases that cannot be planned.


def assert_only_alpha_failed(ran: Ran, cause: str) -> None:
    assert ran.code == 1
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK", "gamma": "OK"}
    assert "revisions" not in planned(ran)
    assert cause in " ".join(problem["cause"] for problem in problems(ran))
    assert sql_of(planned(ran, "beta")) == {"b2": f"{MEMO};"}
    assert planned(ran, "gamma")["detail"] == "nothing pending"


def test_an_unreachable_database_fails_and_the_others_are_planned(
    production: Production,
) -> None:
    (port,) = free_ports(1)
    with pending(production, "beta", b2=MEMO):
        nowhere = production.url(port)
        ran = plan(production, "--json", ALPHA_SERVICE_DATABASE_URL=nowhere)
        shown = plan(production, "--sql", ALPHA_SERVICE_DATABASE_URL=nowhere)
    assert_only_alpha_failed(ran, f"Nothing answers at localhost:{port}: Connection refused")
    assert "beta: a1 -> b2" in shown.out
    assert re.search(r"^ERROR +alpha: Nothing answers", shown.out, re.MULTILINE)


FAULTS = {
    "no right to create": (
        f"REVOKE CREATE ON SCHEMA public FROM {USER}",
        f"GRANT CREATE ON SCHEMA public TO {USER}",
        f"'{USER}' may not create tables",
    ),
    "an unknown revision": (
        f"{AT} 'zz'",
        f"{AT} 'a1'",
        "the database is at zz, which is not in the revision files",
    ),
    "another environment's environment tag": (
        TAG.format("staging"),
        TAG.format("production"),
        "is tagged as staging, not as production",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_database_with_errors_is_not_planned_and_the_others_are(
    production: Production, fault: str
) -> None:
    do, undo, cause = FAULTS[fault]
    with pending(production, "beta", b2=MEMO), production.changed(do, undo):
        ran = plan(production, "--json")
    assert_only_alpha_failed(ran, cause)


def test_revisions_that_form_no_history_fail_and_the_others_are_planned(
    production: Production,
) -> None:
    added = [production.monorepo.add_revision("alpha", name, "a1") for name in ("b2", "c2")]
    try:
        with pending(production, "beta", b2=MEMO):
            ran = plan(production, "--json")
    finally:
        for path in added:
            path.unlink()
    assert_only_alpha_failed(ran, "one of several heads")


# The plan file.


def test_a_plan_file_pins_each_database_and_each_revision_file(
    production: Production, behind: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    with pending(production, "gamma", b2=READS):
        ran = plan(production, "--json", "--out", str(out))
        assert ran.json["notes"][0] == f"The plan was written to {out}."
        document = json.loads(out.read_text())
        assert (document["schema_version"], document["environment"]) == (1, "production")
        alpha, gamma = document["services"]
        assert (gamma["service"], gamma["revisions"][0]["sql"]) == ("gamma", None)
        inputs = alpha.pop("inputs")
        assert alpha.pop("rehearsed") is False
        assert alpha.pop("tables")["public.note"] == {"bytes": 8192, "rows": None}
        assert {path.name for path in behind} < {Path(name).name for name in inputs}
        assert {"env.py", "alembic.ini", "config.py"} < {Path(name).name for name in inputs}
        assert all(production.monorepo.path(name).is_file() for name in inputs)
    ((oid, number),) = ask(
        production.admin(),
        "SELECT oid::bigint, system_identifier FROM pg_database, pg_control_system()"
        " WHERE datname = current_database()",
    )
    assert alpha | {"revisions": []} == {
        "service": "alpha",
        "server": f"localhost:{production.main.port}",
        "database": "huleedu_alpha",
        "database_oid": oid,
        "system_identifier": str(number),
        "before": ["a1"],
        "after": ["d4"],
        "files": {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in behind},
        "drift": None,
        "revisions": [],
    }
    assert [revision["revision"] for revision in alpha["revisions"]] == ["b2", "c3", "d4"]
    assert_no_password(out.read_text())


def test_a_password_in_the_sql_of_a_revision_is_masked_in_the_plan_file(
    production: Production,
) -> None:
    text = """\
        import os
        from alembic import op

        revision = "b2"
        down_revision = "a1"


        def upgrade():
            op.execute("SELECT '" + os.environ["PGPASSWORD"].replace("'", "''") + "'")
        """
    path = production.monorepo.write("services/alpha_service/alembic/versions/b2.py", text)
    try:
        ran = production.invoke("prod.plan", "--sql", "--out", "plan.json")
    finally:
        path.unlink()
    assert ran.code == 0
    assert "SELECT '***'" in ran.out
    assert_no_password(production.monorepo.read("plan.json"))


def test_the_plan_file_is_relative_to_the_working_directory_and_shown_on_the_screen(
    production: Production,
) -> None:
    path = production.monorepo.path("plan.json")
    try:
        ran = plan(production, "--out", "plan.json", *selected(["beta"]))
        document = json.loads(path.read_text())
    finally:
        path.unlink(missing_ok=True)
    assert ran.code == 0
    assert f"The plan was written to {path}.\n" in ran.err
    assert document["services"] == []


def test_an_untagged_database_is_planned_without_a_pending_revision(
    production: Production, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    with ExitStack() as stack:
        for do, undo in (
            (
                f"ALTER DATABASE huleedu_alpha OWNER TO {USER}",
                "ALTER DATABASE huleedu_alpha OWNER TO postgres_admin",
            ),
            (UNMARKED, TAG.format("production")),
        ):
            stack.enter_context(production.changed(do, undo))
        ran = plan(production, "--json", "--out", str(out))
    assert ran.code == 0
    assert planned(ran)["detail"].startswith("nothing pending")
    assert "tagged as production" in planned(ran)["detail"]
    (alpha,) = json.loads(out.read_text())["services"]
    assert (alpha["service"], alpha["files"], alpha["revisions"]) == ("alpha", {}, [])


def test_if_one_service_fails_no_plan_is_written_and_an_older_one_stays(
    production: Production, tmp_path: Path
) -> None:
    new, older = tmp_path / "new.json", tmp_path / "older.json"
    older.write_text("older")
    nowhere = production.url(free_ports(1)[0])
    for out in (new, older):
        ran = plan(production, "--json", "--out", str(out), ALPHA_SERVICE_DATABASE_URL=nowhere)
        assert ran.code == 1
        assert ran.json["notes"] == [f"{out} was not written because of the errors above."]
    assert files(tmp_path) == {"older.json": b"older"}


@pytest.mark.parametrize(("name", "reason"), [("gone/plan.json", "No such file"), (".", "Is a d")])
def test_a_file_that_cannot_be_written_is_an_error_of_usage(
    production: Production, tmp_path: Path, name: str, reason: str
) -> None:
    out = tmp_path / name
    ran = plan(production, "--json", "--out", str(out), "--service", "alpha")
    assert (ran.code, ran.json["exit_code"]) == (2, 2)
    message = ran.json["error"]["message"]
    assert message.startswith(f"--out {out} could not be written: {reason}")
    assert ran.json["error"]["hint"]


# Environments.


def test_staging_has_its_own_variables_and_is_named_on_screen_and_in_the_file(
    production: Production, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    tls = {"SSLMODE": "verify-full", "SSLROOTCERT": str(production.authority.file)}
    variables = dict.fromkeys(production.variables, "")
    variables |= external("STAGING", "staging", production.main.port, **tls)
    with (
        pending(production, b2=MEMO),
        production.changed(TAG.format("staging"), TAG.format("production")),
    ):
        ran = plan(production, "--out", str(out), "--service", "alpha", **variables)
    assert ran.code == 0
    assert ran.out.startswith(f"STAGING: localhost:{production.main.port}\n")
    assert "alpha: OK, from a1, to b2, pending 1" in ran.out
    assert "(staging; external: " in ran.err
    document = json.loads(out.read_text())
    assert document["environment"] == "staging"
    assert document["services"][0]["files"].keys() == {"b2"}


@pytest.mark.parametrize("environment", ["", "development", "Testing"])
def test_in_development_and_testing_a_plan_is_refused_and_no_file_is_written(
    production: Production, tmp_path: Path, environment: str
) -> None:
    out = tmp_path / "plan.json"
    ran = plan(production, "--json", "--out", str(out), HULEEDU_ENVIRONMENT=environment)
    assert (ran.code, ran.json["exit_code"]) == (3, 3)
    assert "prod.plan" in ran.json["error"]["message"]
    assert "HULEEDU_ENVIRONMENT" in ran.json["error"]["hint"]
    assert not out.exists()


def test_all_errors_of_the_configuration_are_reported_without_connecting(
    production: Production,
) -> None:
    said = len(production.log)
    ran = production.invoke(
        "prod.plan", "--json", HULEEDU_PROD_DB_HOST="", HULEEDU_PROD_DB_PASSWORD=""
    )
    assert ran.code == 2
    places = " ".join(f["place"] + f["problem"] for f in ran.json["error"]["findings"])
    assert "HULEEDU_PROD_DB_HOST" in places
    assert "HULEEDU_PROD_DB_PASSWORD" in places
    assert len(production.log) == said
