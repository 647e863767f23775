"""Where a rollback goes, and which revisions it rolls back."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from huleedu_tasks.db.revision import NewRevision
from huleedu_tasks.db.rollback import Wanted, target_of, undone
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.postgres.clones import throwaway_name


def history_of(**parents: Sequence[str]) -> History:
    """Return a history from the parents of each revision."""
    return History(
        revisions={
            name: Revision(
                id=name, parents=tuple(before), depends_on=(), message="", path=Path(name)
            )
            for name, before in parents.items()
        }
    )


# Two branches, b and c, that d merges.
HISTORY = history_of(a=(), b=("a",), c=("a",), d=("b", "c"), e=("d",))


@pytest.mark.parametrize(
    ("wanted", "before", "target"),
    [
        (Wanted(), ("e",), "d"),
        (Wanted(), ("b",), "a"),
        (Wanted(), ("a",), ""),
        (Wanted(steps=2), ("b",), ""),
        (Wanted(revision="b"), ("e",), "b"),
        (Wanted(revision="base"), ("e",), ""),
    ],
)
def test_a_rollback_goes_to_an_earlier_revision(
    wanted: Wanted, before: tuple[str, ...], target: str
) -> None:
    assert target_of(wanted, "orders", HISTORY, before) == target


@pytest.mark.parametrize(
    ("wanted", "before", "code"),
    [
        (Wanted(), (), "nothing-to-roll-back"),
        (Wanted(), ("unknown",), "revision-unknown"),
        (Wanted(), ("d",), "rollback-ambiguous"),
        (Wanted(), ("b", "c"), "rollback-ambiguous"),
        (Wanted(steps=3), ("b",), "revision-not-earlier"),
        (Wanted(revision="e"), ("e",), "revision-not-earlier"),
        (Wanted(revision="e"), ("d",), "revision-not-earlier"),
        (Wanted(revision="c"), ("b",), "revision-not-earlier"),
    ],
)
def test_a_rollback_without_an_earlier_revision_is_an_error(
    wanted: Wanted, before: tuple[str, ...], code: str
) -> None:
    with pytest.raises(HuleEduError) as raised:
        target_of(wanted, "orders", HISTORY, before)
    assert raised.value.code == code


def test_the_latest_revision_is_rolled_back_first() -> None:
    assert [revision.id for revision in undone(HISTORY, ("e",), ("b", "c"))] == ["e", "d"]


def test_a_throwaway_database_has_a_name_that_postgresql_does_not_cut() -> None:
    names = {throwaway_name("x" * 60 + end) for end in ("a", "b")} | {throwaway_name("orders")}
    assert len(names) == 3
    assert all(len(name.encode()) <= 63 and name.endswith("__throwaway") for name in names)


def test_a_message_may_begin_with_a_hyphen() -> None:
    assert NewRevision(message="-x").arguments == ["revision", "--message=-x", "--autogenerate"]
    assert NewRevision(message="x", is_empty=True).arguments == ["revision", "--message=x"]
    assert NewRevision(message="x", is_merge=True).arguments == ["merge", "--message=x", "heads"]
