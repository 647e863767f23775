"""The digest of a revision's code, and the digests in an environment tag."""

from pathlib import Path

import pytest

from huleedu_tasks.migrations.edits import (
    KEPT,
    UNPARSED,
    code_digest,
    edits_since_applied,
    with_digests,
)
from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.postgres.databases import EnvironmentTag

SOURCE = '''\
"""Add notes."""
from typing import Union
from alembic import op
import sqlalchemy as sa

revision: str = "a1"
down_revision: Union[str, None] = None


def upgrade():
    op.create_table("note", sa.Column("id", sa.Integer(), nullable=False))


def downgrade() -> None:
    pass
'''
SAME = {
    "a comment": ("op.create", "# Notes.\n    op.create"),
    "white space": ('"note", sa', '"note",\n        sa'),
    "quotes": ('"note"', "'note'"),
    "a trailing comma": ("nullable=False)", "nullable=False,)"),
    "parentheses": ("sa.Integer()", "(sa.Integer())"),
    "implicit concatenation": ('"note"', '"no" "te"'),
    "the docstring of the module": ("Add notes.", "Add the notes of essays."),
    "a docstring in place of pass": ("    pass", '    """Keep the notes."""'),
    "annotations": ("Union[str, None]", "str | None"),
    "the order of imports": (
        "from alembic import op\nimport sqlalchemy as sa",
        "import sqlalchemy as sa\n\nfrom alembic import op",
    ),
    "line ends": ("\n", "\r\n"),
}
OTHER = {
    "a name": ('"note"', '"notes"'),
    "a value": ("nullable=False", "nullable=True"),
    "a type": ("sa.Integer()", "sa.BigInteger()"),
    "zero for False": ("nullable=False", "nullable=0"),
    "None for a value": ('"a1"', "None"),
    "a statement": ("op.create_table", "op.drop_table('old')\n    op.create_table"),
    "a string that is not a docstring": ('"note",', '"note", "",'),
    "another module": ("from alembic import op", "from helpers import op"),
    "a removed call": ("    op.create_table(", "    (lambda *x: x)("),
}


@pytest.mark.parametrize("change", SAME)
def test_what_has_no_effect_does_not_change_the_digest(change: str) -> None:
    edited = SOURCE.replace(*SAME[change])
    assert edited != SOURCE
    assert code_digest(edited.encode()) == code_digest(SOURCE.encode())


@pytest.mark.parametrize("change", OTHER)
def test_a_change_of_the_code_changes_the_digest(change: str) -> None:
    edited = SOURCE.replace(*OTHER[change])
    assert edited != SOURCE
    assert code_digest(edited.encode()) != code_digest(SOURCE.encode())


def test_the_digest_is_the_same_for_every_version_of_python() -> None:
    assert code_digest(SOURCE.encode()) == "7962277a"


@pytest.mark.parametrize("source", [b"def (", b"\0", b"x = " + b"-" * 100_000 + b"1"])
def test_code_that_cannot_be_parsed_has_no_digest(source: bytes) -> None:
    assert code_digest(source) == UNPARSED


def history(directory: Path, count: int) -> History:
    """Write a history of a number of revisions, `r0` first."""
    revisions = {}
    for number in range(count):
        name, parents = f"r{number}", (f"r{number - 1}",) if number else ()
        path = directory / f"{name}.py"
        path.write_text(f"revision = '{name}'\n")
        revisions[name] = Revision(id=name, parents=parents, depends_on=(), message="", path=path)
    return History(revisions=revisions)


def test_an_edit_of_an_applied_revision_is_found(tmp_path: Path) -> None:
    known = history(tmp_path, 3)
    tag = with_digests(EnvironmentTag(environment="testing"), "a", known, (), ("r1",))
    assert list(tag.revisions["a"]) == ["r0", "r1"]
    for path in tmp_path.iterdir():
        path.write_text(f"{path.read_text()}# Only a comment.\n")
    assert edits_since_applied(tag, "a", known, ("r1",)) == ()
    for path in tmp_path.iterdir():
        path.write_text(f"{path.read_text()}more = 1\n")
    found = edits_since_applied(tag, "a", known, ("r1",))
    assert [edit.revision.id for edit in found] == ["r0", "r1"]
    assert [e.revision.id for e in edits_since_applied(tag, "a", known, ("r0",))] == ["r0"]
    assert edits_since_applied(tag, "b", known, ("r1",)) == ()
    assert edits_since_applied(None, "a", known, ("r1",)) == ()

    # Code that this interpreter cannot parse, and what a newer version wrote, are not compared.
    (tmp_path / "r0.py").write_text("def (")
    newer = EnvironmentTag(environment="testing", revisions={"a": {"r1": "1:2"}})
    assert [e.revision.id for e in edits_since_applied(tag, "a", known, ("r1",))] == ["r1"]
    assert edits_since_applied(newer, "a", known, ("r1",)) == ()


def test_digests_of_revisions_that_were_rolled_back_are_removed(tmp_path: Path) -> None:
    known = history(tmp_path, 3)
    tag = with_digests(EnvironmentTag(environment="testing"), "a", known, (), ("r2",))
    assert list(with_digests(tag, "a", known, ("r2",), ("r0",)).revisions["a"]) == ["r0"]
    assert with_digests(tag, "a", known, ("r2",), ()).revisions == {}
    assert with_digests(tag, "a", known, ("r2",), ("r2",)) is tag


def test_only_the_digests_of_the_newest_revisions_are_kept(tmp_path: Path) -> None:
    known = history(tmp_path, KEPT + 3)
    tag = EnvironmentTag(environment="testing")
    for before, after in (((), ("r1",)), (("r1",), (f"r{KEPT + 2}",))):
        tag = with_digests(tag, "a", known, before, after)
    assert list(tag.revisions["a"]) == [f"r{number}" for number in range(3, KEPT + 3)]
