"""`migrations.lint` finds operations by what PostgreSQL does, and not their safe twins."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks.config.registry import Registry
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.review.table_sizes import read_table_sizes
from tests.support.lint_corpus import CorpusRevision, revisions, setup
from tests.support.monorepo import Monorepo, Ran, empty_monorepo, free_ports

REVISION = """\
from alembic import op

revision = {id!r}
down_revision = {parent!r}


def upgrade():
    {body}
"""
CORPUS = [*revisions()]
DANGERS = [one for one in CORPUS if one.rule]
SAFE = [one for one in CORPUS if not one.rule]
# The findings that stop a pull request, or that a reviewer must read.
SHOWN = ("ERROR", "WARNING")


class Services:
    """A monorepo with services on one server, and a branch `main`."""

    def __init__(self, monorepo: Monorepo) -> None:
        self.monorepo = monorepo
        (self._port,) = free_ports(1)

    def add(self, name: str, *sql: str) -> None:
        """Add a service, with one revision of the base branch."""
        self.monorepo.add_service(name, self._port, compose_service="one_db")
        for path in self._versions(name).glob("*.py"):
            path.unlink()
        self.revise(name, "a1", None, "\n    ".join(f"op.execute({one!r})" for one in sql))

    def revise(self, name: str, revision: str, parent: str | None, body: str) -> str:
        """Write a revision, and return its path."""
        path = f"services/{name}_service/alembic/versions/{revision}.py"
        text = REVISION.format(id=revision, parent=parent, body=body)
        self.monorepo.write(path, text)
        return path

    def git(self, *arguments: str) -> None:
        """Run Git."""
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        command = ["git", *identity, *arguments]
        subprocess.run(command, cwd=self.monorepo.root, check=True, capture_output=True)

    def lint(self, *arguments: str) -> Ran:
        """Run the command."""
        return self.monorepo.invoke("migrations.lint", "--json", *arguments)

    def _versions(self, name: str) -> Path:
        return self.monorepo.path(f"services/{name}_service/alembic/versions")


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    """Make the services: one with the corpus, and others with single revisions."""
    with empty_monorepo() as monorepo:
        made = Services(monorepo)
        made.add("corpus", *setup())
        note = "CREATE TABLE note (id integer PRIMARY KEY, text text, size integer)"
        for name in ("sized", "excused", "failing", "quiet"):
            made.add(name, note)
        made.git("init", "--initial-branch=main")
        made.git("add", "--all")
        made.git("commit", "--message=first")
        parent = "a1"
        for one in CORPUS:
            made.revise("corpus", one.id, parent, one.body)
            parent = one.id
        _add_single_revisions(made)
        yield made


def _add_single_revisions(made: Services) -> None:
    made.revise("sized", "b1", "a1", "op.execute('ALTER TABLE note ALTER size TYPE bigint')")
    made.revise(
        "excused",
        "b1",
        "a1",
        "# huleedu: allow drops-column -- not read since release 41\n"
        "    op.drop_column(\n        'note',\n        'text',\n    )\n"
        "    op.execute('CREATE INDEX i ON note (size)')\n"
        "    # huleedu: allow rewrites-table",
    )
    made.revise(
        "failing",
        "b1",
        "a1",
        "op.execute('CREATE TABLE other (id int)')\n    op.execute('DROP TABLE typo')",
    )
    made.revise("failing", "c1", "b1", "op.execute('DROP TABLE note')")
    made.revise("quiet", "b1", "a1", "op.execute('ALTER TABLE note ADD more text')")


@pytest.fixture(scope="module")
def linted(services: Services) -> Ran:
    """Return the findings of all services, without sizes."""
    return services.lint("--base", "main")


def problems(ran: Ran, name: str) -> list[dict[str, Any]]:
    """Return the problems of a service."""
    (service,) = (one for one in ran.json["services"] if one["service"] == name)
    found: list[dict[str, Any]] = service["problems"]
    return found


def shown(ran: Ran, revision: CorpusRevision) -> list[str]:
    """Return the rules that a revision of the corpus breaks."""
    return [
        problem["code"]
        for problem in problems(ran, "corpus")
        if problem["path"].endswith(f"/{revision.id}.py") and problem["level"] in SHOWN
    ]


@pytest.mark.parametrize("revision", DANGERS, ids=lambda one: one.pair.name)
def test_a_dangerous_operation_is_found(linted: Ran, revision: CorpusRevision) -> None:
    assert revision.rule in shown(linted, revision)


@pytest.mark.parametrize("revision", SAFE, ids=lambda one: f"{one.pair.name} {one.id[-1]}")
def test_its_safe_twin_is_not(linted: Ran, revision: CorpusRevision) -> None:
    assert shown(linted, revision) == []


def test_an_error_has_its_line_a_recipe_and_the_exit_code(services: Services, linted: Ran) -> None:
    assert linted.code == 4, linted.err
    (found,) = problems(linted, "sized")
    recipe, path = found.pop("steps"), "services/sized_service/alembic/versions/b1.py"
    assert recipe[-1].endswith("drop the old one in a later release.")
    assert found == {
        "level": "ERROR",
        "cause": "rewrites 'note' (of unknown size) under ACCESS EXCLUSIVE, which blocks reads and "
        "writes meanwhile",
        "remedy": "",
        "code": "rewrites-table",
        "kind": "locks",
        "statement": "ALTER TABLE note ALTER size TYPE bigint",
        "path": path,
        "line": 8,
    }
    lines = services.monorepo.read(path).splitlines()
    assert found["statement"] in lines[found["line"] - 1]


def test_a_short_lock_is_information_and_no_error(linted: Ran) -> None:
    (found,) = problems(linted, "quiet")
    assert (found["code"], found["level"]) == ("takes-strong-lock", "INFO")
    (service,) = (one for one in linted.json["services"] if one["service"] == "quiet")
    assert (service["status"], service["linted"], service["revisions"]) == ("OK", 1, 2)


def test_a_finding_that_the_file_allows_is_shown_with_the_reason(linted: Ran) -> None:
    index, fault, allowed = problems(linted, "excused")
    assert (index["code"], index["level"]) == ("scans-table-under-lock", "ERROR")
    assert (fault["code"], fault["level"]) == ("suppression-without-reason", "WARNING")
    assert (allowed["code"], allowed["level"]) == ("drops-column", "INFO")
    assert allowed["cause"].endswith("(allowed: not read since release 41)")


def test_a_failing_revision_is_an_error_and_later_ones_are_not_linted(linted: Ran) -> None:
    (found,) = (one for one in problems(linted, "failing") if one["level"] in SHOWN)
    assert (found["code"], found["line"]) == ("upgrade-failed", 9)
    assert 'the upgrade of b1 failed: table "typo" does not exist' in found["cause"]


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ({"rows": 10**7, "bytes": 2 * 1024**3}, ["ERROR"]),
        ({"rows": None, "bytes": 8192}, ["WARNING"]),
        ({"rows": 0, "bytes": 0}, []),
    ],
    ids=["large", "small", "empty"],
)
def test_a_file_with_sizes_decides_the_level(
    services: Services, size: dict[str, Any], levels: list[str]
) -> None:
    tables = {"public.note": size}
    services.monorepo.write(
        "sizes.json", json.dumps({"services": [{"service": "sized", "tables": tables}]})
    )
    ran = services.lint("--base", "main", "--service", "sized", "--sizes", "sizes.json")
    assert [found["level"] for found in problems(ran, "sized")] == levels
    assert ran.code == (4 if "ERROR" in levels else 0)


def test_the_default_file_of_sizes_is_beside_the_registry(services: Services) -> None:
    tables = {"public.note": {"rows": 5, "bytes": 4096}}
    path = services.monorepo.write(
        "table-sizes.json", json.dumps({"services": [{"service": "sized", "tables": tables}]})
    )
    # Without a base, the whole history is linted.
    ran = services.lint("--service", "sized")
    path.unlink()
    (found,) = (one for one in problems(ran, "sized") if one["level"] in SHOWN)
    assert "rewrites 'note' (about 5 rows, 4 kB)" in found["cause"]
    assert found["level"] == "WARNING"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "it is not an object with a list `services`"),
        ('{"services": [{}]}', "services[0] is not an object with a string `service`"),
        ('{"services": [{"service": "a", "tables": []}]}', "services[0].tables is not an object"),
        (
            '{"services": [{"service": "a", "tables": {"n": {"bytes": -1}}}]}',
            'services[0].tables["n"] must be an object',
        ),
        (None, "No such file or directory"),
    ],
)
def test_an_unreadable_file_of_sizes_is_an_error(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    path = tmp_path / "sizes.json"
    if text is not None:
        path.write_text(text)
    registry = Registry(path=tmp_path / "services.json", services=())
    with pytest.raises(ConfigurationError) as caught:
        read_table_sizes("sizes.json", registry, tmp_path)
    assert caught.value.code == "sizes-unreadable"
    assert f"The sizes of tables in {path} could not be read: {reason}" in caught.value.message
