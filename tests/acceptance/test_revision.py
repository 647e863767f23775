"""`db.revision`: new revisions by autogenerate, empty ones and merges."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.monorepo import Monorepo, empty_monorepo, free_ports, wait_until
from tests.support.observe import assert_no_password_on_screen, log_in

MODELS = """\
from sqlalchemy import Column, Integer, MetaData, Table, Text

metadata = MetaData()
note = Table(
    "note", metadata, Column("id", Integer, primary_key=True), Column("text", Text, nullable=False)
)
"""
NEW_TABLE = 'tag = Table("tag", metadata, Column("name", Text, primary_key=True))\n'
MAKO = '''\
"""${message}"""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''
VERSIONS = "services/alpha_service/alembic/versions"
MODELS_PY = "services/alpha_service/models.py"
ENV = "services/alpha_service/alembic/env.py"
TEMPLATE = "services/alpha_service/alembic/script.py.mako"


def add_models(monorepo: Monorepo, name: str = "alpha") -> None:
    """Give a service models, and an env.py that compares them with the history."""
    directory = f"services/{name}_service"
    monorepo.write(f"{directory}/models.py", MODELS)
    monorepo.write(f"{directory}/alembic/script.py.mako", MAKO)
    env = monorepo.read(f"{directory}/alembic/env.py")
    env = env.replace("import database_url", "import database_url\nfrom models import metadata")
    env = env.replace("connection=connection", "connection=connection, target_metadata=metadata")
    monorepo.write(f"{directory}/alembic/env.py", env)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Monorepo]:
    """Return a monorepo of two services with models, after a reset."""
    with empty_monorepo() as made:
        for name, port in zip(("alpha", "beta"), free_ports(2), strict=True):
            made.add_service(name, port)
            add_models(made, name)
        ini = made.read("services/alpha_service/alembic.ini")
        made.write(
            "services/alpha_service/alembic.ini", f"{ini}file_template = r_%%(rev)s_%%(slug)s\n"
        )
        assert made.invoke("db.reset", "--service", "alpha").code == 0
        yield made


@pytest.fixture
def alpha(prepared: Monorepo) -> Iterator[Monorepo]:
    """Return that monorepo; what a test changes in files of alpha is undone."""
    names = (MODELS_PY, ENV, TEMPLATE)
    before = {name: prepared.read(name) for name in names}
    yield prepared
    for name, text in before.items():
        prepared.write(name, text)
    for path in prepared.path(VERSIONS).glob("*.py"):
        if path.name != "a1.py":
            path.unlink()


def files(monorepo: Monorepo) -> list[Path]:
    return sorted(p for p in monorepo.path(VERSIONS).glob("*.py") if p.name != "a1.py")


def databases(monorepo: Monorepo) -> set[str]:
    rows = log_in(monorepo.url("alpha"), "SELECT string_agg(datname, ' ') FROM pg_database")
    return {name for name in str(rows).split() if "throwaway" in name}


def test_a_changed_model_becomes_a_revision_in_the_style_of_the_service(alpha: Monorepo) -> None:
    alpha.write(MODELS_PY, MODELS + NEW_TABLE)
    ran = alpha.invoke_afresh("db.revision", "--service", "alpha", "-m", "add tags", "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.json["services"]
    (path,) = files(alpha)
    (revision,) = row["revisions"]
    assert re.fullmatch(r"r_[0-9a-f]{12}_add_tags\.py", path.name)
    assert (row["from"], row["to"]) == ("a1", revision["revision"])
    assert revision["path"] == f"{VERSIONS}/{path.name}"
    assert "CREATE TABLE tag" in revision["sql"]
    assert "op.create_table('tag'" in path.read_text()
    assert any("renames" in note for note in ran.json["notes"])
    assert "invoke db.migrate --service alpha" in ran.json["notes"][-1]
    assert databases(alpha) == set()
    assert_no_password_on_screen(ran)
    # The developer's own database is unchanged.
    assert log_in(alpha.url("alpha"), "SELECT to_regclass('tag')") is None


def test_no_file_is_written_if_models_and_history_agree(alpha: Monorepo) -> None:
    ran = alpha.invoke("db.revision", "--service", "alpha", "--message", "nothing")
    assert ran.code == 0, ran.err
    assert "models and history agree" in ran.out
    assert files(alpha) == []


def test_the_developers_own_database_does_not_matter(alpha: Monorepo) -> None:
    log_in(alpha.url("alpha"), "CREATE TABLE mine (id integer)")
    log_in(alpha.url("alpha"), "UPDATE alembic_version SET version_num = 'unknown'")
    try:
        ran = alpha.invoke("db.revision", "--service", "alpha", "-m", "nothing")
    finally:
        log_in(alpha.url("alpha"), "DROP TABLE mine")
        log_in(alpha.url("alpha"), "UPDATE alembic_version SET version_num = 'a1'")
    assert "models and history agree" in ran.out, ran.err


def test_without_a_template_the_history_is_applied_to_a_new_database(alpha: Monorepo) -> None:
    alpha.write(MODELS_PY, MODELS + NEW_TABLE)
    assert alpha.invoke("db.revision", "--service", "alpha", "-m", "one").code == 0
    ran = alpha.invoke("db.revision", "--service", "alpha", "-m", "two")
    assert "alpha: migrating a throwaway database" in ran.err
    assert "models and history agree" in ran.out
    assert databases(alpha) == set()


def test_a_dropped_table_is_reported_as_a_possible_rename(alpha: Monorepo) -> None:
    alpha.write(MODELS_PY, MODELS.replace('"note"', '"memo"'))
    ran = alpha.invoke("db.revision", "--service", "alpha", "-m", "rename")
    assert ran.code == 0, ran.err
    assert "DROP TABLE note" in ran.out
    assert "op.rename_table()" in ran.out


def test_an_empty_revision_needs_no_server(alpha: Monorepo) -> None:
    assert alpha.invoke("db.down", "--service", "alpha").code == 0
    ran = alpha.invoke("db.revision", "--service", "alpha", "-m", "fill rows", "--empty")
    assert ran.code == 0, ran.err
    assert [path.name.endswith("_fill_rows.py") for path in files(alpha)] == [True]
    assert not alpha.path(f"{alpha.data_directories()[0]}/postmaster.pid").exists()
    assert alpha.invoke("db.up", "--service", "alpha").code == 0


def test_two_heads_are_merged(alpha: Monorepo) -> None:
    for name in ("b1", "b2"):
        alpha.add_revision("alpha", name, "a1", f"CREATE TABLE {name} (id integer)")
    refused = alpha.invoke("db.revision", "--service", "alpha", "-m", "more", "--json")
    assert (refused.code, refused.json["services"][0]["code"]) == (1, "several-heads")
    assert "--merge" in refused.json["services"][0]["hint"]
    merged = alpha.invoke("db.revision", "--service", "alpha", "-m", "join", "--merge")
    assert merged.code == 0, merged.err
    again = alpha.invoke("db.revision", "--service", "alpha", "-m", "join", "--merge", "--json")
    assert (again.code, again.json["services"][0]["code"]) == (1, "nothing-to-merge")


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "exit_code"),
    [
        (["--service", "alpha"], {}, "message-missing", 2),
        (["--service", "alpha", "-m", " "], {}, "message-missing", 2),
        (["-m", "x"], {}, "service-ambiguous", 2),
        (["--service", "alpha", "-m", "x", "--empty", "--merge"], {}, "argument-conflict", 2),
        (
            ["--service", "alpha", "-m", "x"],
            {"HULEEDU_ENVIRONMENT": "staging"},
            "environment-refused",
            3,
        ),
    ],
)
def test_wrong_arguments_are_refused(
    alpha: Monorepo, arguments: list[str], environment: dict[str, str], code: str, exit_code: int
) -> None:
    ran = alpha.invoke("db.revision", *arguments, "--json", env=environment)
    assert (ran.code, ran.json["error"]["code"]) == (exit_code, code)
    assert files(alpha) == []


def test_an_env_py_without_metadata_is_named(alpha: Monorepo) -> None:
    alpha.write(ENV, alpha.read(ENV).replace("target_metadata=metadata", "target_metadata=None"))
    ran = alpha.invoke("db.revision", "--service", "alpha", "-m", "x", "--json")
    (row,) = ran.json["services"]
    assert (ran.code, row["code"]) == (1, "metadata-missing")
    assert files(alpha) == []
    assert databases(alpha) == set()


@pytest.mark.parametrize(
    ("template", "message"),
    [(MAKO, 'say """hello"""'), (MAKO.replace("import sqlalchemy as sa", ""), "add tags")],
    ids=["not Python", "a name that is not imported"],
)
def test_a_file_that_cannot_be_loaded_is_named_and_kept(
    alpha: Monorepo, template: str, message: str
) -> None:
    alpha.write(MODELS_PY, MODELS + NEW_TABLE)
    alpha.write(TEMPLATE, template)
    ran = alpha.invoke("db.revision", "--service", "alpha", "-m", message, "--json")
    (row,) = ran.json["services"]
    (path,) = files(alpha)
    assert (ran.code, row["code"]) == (1, "revision-not-importable")
    assert str(path) in row["detail"]
    assert databases(alpha) == set()


def test_a_dry_run_writes_nothing(alpha: Monorepo) -> None:
    alpha.write(MODELS_PY, MODELS + NEW_TABLE)
    ran = alpha.invoke("db.revision", "--service", "alpha", "-m", "x", "--dry-run")
    assert (ran.code, files(alpha)) == (0, [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_file_and_its_database_is_dropped(
    alpha: Monorepo, number: signal.Signals
) -> None:
    alpha.write(MODELS_PY, MODELS + NEW_TABLE)
    alpha.write(ENV, alpha.read(ENV) + "import time\ntime.sleep(60)\n")
    process = alpha.start("db.revision", "--service", "alpha", "-m", "x")
    wait_until(lambda: databases(alpha) != set())
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number is signal.SIGINT else -number), out + err
    assert files(alpha) == []
    alpha.write(ENV, alpha.read(ENV).replace("time.sleep(60)", ""))
    if number is signal.SIGKILL:
        assert databases(alpha) != set()
        assert alpha.invoke("db.revision", "--service", "alpha", "-m", "x").code == 0
    assert databases(alpha) == set()
