"""`migrations.lint` finds operations by what PostgreSQL does, and not their safe twins."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lint import squawk_findings, table
from huleedu_tasks.config.registry import Registry
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.review.table_sizes import read_table_sizes
from tests.support.documents import page
from tests.support.lint_corpus import CorpusRevision, revisions, setup
from tests.support.linting import CORPUS_SERVICE, SHOWN, LintedServices, broken_rules, problems
from tests.support.monorepo import Ran, empty_monorepo

CORPUS = [*revisions()]
DANGERS = [one for one in CORPUS if one.rule]
SAFE = [one for one in CORPUS if not one.rule]


@pytest.fixture(scope="module")
def services() -> Iterator[LintedServices]:
    """Make the services: one with the corpus, and others with single revisions."""
    with empty_monorepo() as monorepo:
        made = LintedServices(monorepo)
        made.add(CORPUS_SERVICE, *setup())
        note = "CREATE TABLE note (id integer PRIMARY KEY, text text, size integer)"
        for name in ("sized", "excused", "failing", "quiet"):
            made.add(name, note)
        made.commit()
        made.revise_with(CORPUS)
        _add_single_revisions(made)
        yield made


def _add_single_revisions(made: LintedServices) -> None:
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
def linted(services: LintedServices) -> Ran:
    """Return the findings of all services, without sizes."""
    return services.lint("--base", "main")


@pytest.mark.parametrize("revision", DANGERS, ids=lambda one: one.pair.name)
def test_a_dangerous_operation_is_found(linted: Ran, revision: CorpusRevision) -> None:
    assert revision.rule in broken_rules(linted, revision)


@pytest.mark.parametrize("revision", SAFE, ids=lambda one: f"{one.pair.name} {one.id[-1]}")
def test_its_safe_twin_is_not(linted: Ran, revision: CorpusRevision) -> None:
    assert broken_rules(linted, revision) == []


def test_the_page_has_what_is_found_beside_squawk(linted: Ran) -> None:
    ours = {one.id for one in CORPUS if broken_rules(linted, one)}
    # To accept: python -m benchmarks.lint
    assert table(CORPUS, ours, squawk_findings(CORPUS)) in page("lint.md")


def test_an_error_has_its_line_a_recipe_and_the_exit_code(
    services: LintedServices, linted: Ran
) -> None:
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
    services: LintedServices, size: dict[str, Any], levels: list[str]
) -> None:
    tables = {"public.note": size}
    services.monorepo.write(
        "sizes.json", json.dumps({"services": [{"service": "sized", "tables": tables}]})
    )
    ran = services.lint("--base", "main", "--service", "sized", "--sizes", "sizes.json")
    assert [found["level"] for found in problems(ran, "sized")] == levels
    assert ran.code == (4 if "ERROR" in levels else 0)


def test_the_default_file_of_sizes_is_beside_the_registry(services: LintedServices) -> None:
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
