"""`migrations.check` and `migrations.test` name each fault of revisions, models and seeds.

All faulty services are checked by one command, on one throwaway server.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.monorepo import ENV_PY, Monorepo, Ran, empty_monorepo, free_ports

CONFIGURED = "context.configure(connection=connection)"
MODELS = """\
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table(
    "note",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
{more})
"""
REVISION = """\
import sqlalchemy as sa
from alembic import op

revision = {id!r}
down_revision = {parent!r}


def upgrade():
    {upgrade}
"""
NOTE = "CREATE TABLE note (id serial PRIMARY KEY, text text NOT NULL)"
BROKEN = ("heads", "gap", "twice")
CHECKED = (
    *("good", "filtered", "placed", "plain", "models", "rows", "extension", "reseeded", "lost"),
    *("stale", "edited", *BROKEN),
)
WRITTEN = ("out/a.md", "out/a.sarif", "out/a.xml", "gitlab:out/gl.json", "github:out/annotations")
TESTED = ("good", "heads", "trace", "stuck", "oneway", "rows", "blocks")


class Services:
    """A monorepo whose services all have one server."""

    def __init__(self, monorepo: Monorepo) -> None:
        self.monorepo = monorepo
        (self._port,) = free_ports(1)

    def add(self, name: str, *, models: str = MODELS.format(more=""), options: str = "") -> None:
        """Add a service with one revision; its models agree with that, unless stated."""
        self.monorepo.add_service(name, self._port, compose_service="one_db")
        stated = f", target_metadata=metadata{options})" if models else f"{options})"
        env_py = ENV_PY.replace(CONFIGURED, CONFIGURED.replace(")", stated))
        self.write(name, "alembic/env.py", f"from models import *\n{env_py}" if models else env_py)
        self.write(name, "models.py", models)
        self.revise(name, "a1", None, f"op.execute({NOTE!r})", "op.drop_table('note')")

    def revise(
        self, name: str, revision: str, parent: str | None, upgrade: str, downgrade: str = "pass"
    ) -> Path:
        """Write a revision; an empty downgrade has no function."""
        text = REVISION.format(id=revision, parent=parent, upgrade=upgrade)
        if downgrade:
            text += f"\n\ndef downgrade():\n    {downgrade}\n"
        return self.write(name, f"alembic/versions/{revision}.py", text)

    def write(self, name: str, path: str, text: str) -> Path:
        """Write a file of a service."""
        return self.monorepo.write(f"services/{name}_service/{path}", text)

    def git(self, *arguments: str) -> None:
        """Run Git."""
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.monorepo.root,
            check=True,
            capture_output=True,
        )


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    """Make the services, with a branch `main` and a pull request that has commits of its own."""
    with empty_monorepo() as monorepo:
        made = Services(monorepo)
        for name in sorted({*CHECKED, *TESTED} - {"models", "plain", "filtered", "placed"}):
            made.add(name)
        made.add("plain", models="")
        made.add("models", models=MODELS.format(more=_MORE))
        made.revise("models", "b1", "a1", _ENUM, "op.drop_table('task')")
        hidden = ", include_object=lambda o, name, kind, *_: name != 'hidden'"
        hides = 'sa.Table("hidden", metadata, sa.Column("id", sa.Integer, primary_key=True))\n'
        made.add("filtered", models=MODELS.format(more="") + hides, options=hidden)
        made.add("placed", options=', version_table_schema="placed"')
        create = "connection.exec_driver_sql('CREATE SCHEMA IF NOT EXISTS placed')\n    "
        env_py = monorepo.read("services/placed_service/alembic/env.py")
        made.write(
            "placed",
            "alembic/env.py",
            env_py.replace(CONFIGURED[:17], create + "context.configure"),
        )
        made.git("init", "--initial-branch=main")
        made.git("add", "--all")
        made.git("commit", "--message=first")
        made.revise("stale", "b1", "a1", "pass")
        made.git("add", "--all")
        made.git("commit", "--message=second")
        made.git("switch", "--create=topic", "HEAD~1")
        _add_faults(made)
        yield made


def _add_faults(made: Services) -> None:
    made.revise("stale", "c1", "a1", "pass")
    made.revise("edited", "a1", None, f"op.execute({NOTE!r}); op.execute('SELECT 1')")
    made.revise("heads", "b1", "a1", "op.execute('CREATE TABLE b ()')", "op.drop_table('b')")
    made.revise("heads", "c1", "a1", "op.execute('CREATE TABLE c ()')", "op.drop_table('c')")
    made.revise("gap", "b1", "nowhere", "pass")
    made.write(
        "twice", "alembic/versions/again.py", REVISION.format(id="a1", parent=None, upgrade="pass")
    )
    made.revise("rows", "b1", "a1", "op.get_bind().exec_driver_sql('SELECT * FROM note').one()")
    made.revise("extension", "b1", "a1", "op.execute('CREATE EXTENSION nowhere')")
    seeds = "database/seed-scripts"
    made.monorepo.path(f"{seeds}/seed_reseeded.py").unlink()
    insert = "INSERT INTO note SELECT coalesce(max(id), 0) + 1, 'again' FROM note;"
    made.monorepo.write(f"{seeds}/seed_reseeded.sql", insert)
    made.monorepo.path(f"{seeds}/seed_lost.py").unlink()
    made.monorepo.write(f"{seeds}/seed_lost.sql", "INSERT INTO lost VALUES (1);")
    # What is rehearsed.
    made.revise("trace", "b1", "a1", _ENUM, "op.drop_table('task')")
    made.revise("trace", "c1", "b1", "op.execute('CREATE TABLE c ()')", "op.drop_table('c')")
    made.revise("stuck", "b1", "a1", "op.execute('CREATE TABLE b ()')", "op.drop_table('typo')")
    made.revise("oneway", "b1", "a1", "op.execute('CREATE TABLE b ()')", "")
    made.revise("oneway", "c1", "b1", "op.execute('CREATE TABLE c ()')")
    made.revise(
        "blocks",
        "b1",
        "a1",
        "with op.get_context().autocommit_block():\n"
        "        op.execute('CREATE INDEX CONCURRENTLY i ON note (text)')",
        "with op.get_context().autocommit_block():\n"
        "        op.execute('DROP INDEX CONCURRENTLY i')",
    )


_MORE = """\
    sa.Column("rank", sa.Integer, server_default="1"),
    sa.CheckConstraint("id > 0"),
)
sa.Table(
    "task",
    metadata,
    sa.Column("state", sa.Enum("open", "done", name="state"), server_default="open"),
"""
_ENUM = """op.execute("CREATE TYPE state AS ENUM ('open')")
    op.execute("CREATE TABLE task (state state)")"""


@pytest.fixture(scope="module")
def checked(services: Services) -> Ran:
    """Return the result of `migrations.check` for all of them."""
    named = [word for name in CHECKED for word in ("--service", name)]
    out = [word for name in WRITTEN for word in ("--out", name)]
    return services.monorepo.invoke("migrations.check", "--json", "--base", "main", *out, *named)


@pytest.fixture(scope="module")
def tested(services: Services) -> Ran:
    """Return the result of `migrations.test`."""
    named = [word for name in TESTED for word in ("--service", name)]
    return services.monorepo.invoke("migrations.test", "--json", *named)


def problems(ran: Ran, name: str) -> list[dict[str, Any]]:
    """Return the problems of a service."""
    (service,) = (s for s in ran.json["services"] if s["service"] == name)
    found: list[dict[str, Any]] = service["problems"]
    return found


def codes(ran: Ran, name: str) -> list[str]:
    """Return the codes of the problems of a service."""
    return [problem["code"] for problem in problems(ran, name)]


def test_a_check_names_each_fault(checked: Ran) -> None:
    assert checked.code == 4, checked.err
    found = {name: codes(checked, name) for name in CHECKED}
    for name in ("good", "filtered", "placed"):
        assert found.pop(name) == [], problems(checked, name)
    assert found.pop("plain") == ["metadata-missing"]
    assert found.pop("models") == ["models-differ"] * 4
    assert found == {
        "rows": ["history-not-built"],
        "extension": ["history-not-built"],
        "reseeded": ["seeds-not-idempotent"],
        "lost": ["seed-failed"],
        "stale": ["base-not-followed"],
        "edited": ["revision-edited"],
        "heads": ["several-heads"],
        "gap": ["history-broken"],
        "twice": ["history-broken"],
    }
    states = {s["service"]: s.get("state") for s in checked.json["services"]}
    assert states["good"] is None
    assert states["models"] == "FINDINGS"


def test_a_check_says_what_failed_and_where(checked: Ran) -> None:
    (extension,) = problems(checked, "extension")
    assert "services/extension_service/alembic/versions/b1.py: Revision b1" in extension["cause"]
    assert extension["statement"] == "CREATE EXTENSION nowhere"
    (stale,) = problems(checked, "stale")
    assert "revision c1 follows a1, and the head of main is b1" in stale["cause"]
    (gap,) = problems(checked, "gap")
    assert "services/gap_service/alembic/versions/b1.py" in gap["cause"]
    (twice,) = problems(checked, "twice")
    assert "also defined in" in twice["cause"]


def test_a_check_writes_every_form(services: Services, checked: Ran) -> None:
    assert checked.code == 4, checked.err
    read = services.monorepo.read
    path = "services/stale_service/alembic/versions/c1.py"
    assert f"`{path}:5`" in read("out/a.md")
    assert f"::error file={path},line=5,title=base-not-followed::stale: " in read("out/annotations")
    (run,) = json.loads(read("out/a.sarif"))["runs"]
    number = sum(len(problems(checked, name)) for name in CHECKED)
    assert len(run["results"]) == len(json.loads(read("out/gl.json"))) == number
    stale = ElementTree.fromstring(read("out/a.xml")).findall("*[@name='stale']/testcase[@line]")
    assert [case.get("file") for case in stale] == [path]


def test_models_are_compared_beyond_autogenerate(checked: Ran) -> None:
    seen, *others = problems(checked, "models")
    assert seen["statement"].startswith("op.add_column('note', sa.Column('rank'")
    unseen = [problem["cause"] for problem in others]
    assert "the history does not add 'done' to enum state" in unseen[0]
    assert "default of column task.state is 'open'::state in the models, and none" in unseen[1]
    assert "CHECK ((id > 0)) of table note is not in the history" in unseen[2]


def test_a_rehearsal_names_each_revision_that_cannot_be_undone(tested: Ran) -> None:
    assert tested.code == 4, tested.err
    found = {name: codes(tested, name) for name in TESTED}
    assert found == {
        "good": [],
        "heads": [],
        "blocks": [],
        "trace": ["downgrade-incomplete", "upgrade-failed"],
        "stuck": ["downgrade-failed"],
        "oneway": ["downgrade-missing"] * 2,
        "rows": ["downgrade-missing", "upgrade-failed"],
    }
    trace, again = problems(tested, "trace")
    assert "services/trace_service/alembic/versions/b1.py" in trace["cause"]
    assert "type public.state remains" in trace["cause"]
    assert "the second upgrade of b1 failed" in again["cause"]
    (stuck,) = problems(tested, "stuck")
    assert stuck["statement"] == "DROP TABLE typo"
    assert {p["level"] for p in problems(tested, "oneway")} == {"WARNING"}


def test_a_rehearsal_is_limited_to_the_new_revisions(services: Services) -> None:
    ran = services.monorepo.invoke(
        *("migrations.test", "--json", "--base", "main", "--service", "oneway,good"),
        env={"HULEEDU_REQUIRE_DOWNGRADES": "true"},
    )
    assert ran.code == 4, ran.err
    assert {s["service"]: s["tested"] for s in ran.json["services"]} == {"good": 0, "oneway": 2}
    assert {p["level"] for p in problems(ran, "oneway")} == {"ERROR"}


@pytest.mark.parametrize(("base", "code"), [("nowhere", "base-unknown"), ("-x", "base-unknown")])
def test_an_unknown_base_is_an_error(services: Services, base: str, code: str) -> None:
    ran = services.monorepo.invoke("migrations.check", "--json", f"--base={base}")
    assert ran.code == 2
    assert ran.json["error"]["code"] == code


def test_a_history_that_was_built_is_copied(services: Services, checked: Ran) -> None:
    ran = services.monorepo.invoke("migrations.check", "--service", "good")
    assert ran.code == 0, ran.err
    assert "good: building its history" in checked.err
    assert "building" not in ran.err


def test_nothing_is_left_behind(services: Services, checked: Ran, tested: Ran) -> None:
    assert not list(services.monorepo.state.glob("throwaway/embedded/*/*/data/postmaster.pid"))
    assert not (services.monorepo.state / "embedded").exists()
