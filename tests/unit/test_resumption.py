"""How far a plan was carried out, by the revisions of the database and its environment tag."""

from dataclasses import replace
from pathlib import Path

import pytest

from huleedu_tasks.migrations.edits import AppliedFile
from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.postgres.inspection import Identity
from huleedu_tasks.prod.plan import Planned
from huleedu_tasks.prod.plan_file import PlanEntry
from huleedu_tasks.prod.resumption import Resumption, resumption_of
from tests.support.values import target

PARENTS = {"a1": (), "x": ("a1",), "y": ("a1",), "m": ("x", "y"), "o": ("a1",)}
# Two branches and their merge; `o` is a branch of its own, which is not planned.
PLAN = PlanEntry(
    service="orders",
    server="db.example.org:5432",
    database="huleedu_orders",
    database_oid=1,
    system_identifier="1",
    before=("a1",),
    after=("m",),
    files={"x": "1" * 64, "y": "2" * 64, "m": "3" * 64},
)
RUN = "20261127T053807Z-5d32c2"
AT = "2026-11-27T05:38:07Z"


def found(*current: str, **runs: str) -> Resumption | None:
    """Return how far the plan was carried out in a database with these revisions."""
    history = History(
        revisions={
            name: Revision(id=name, parents=parents, depends_on=(), message="", path=Path(name))
            for name, parents in PARENTS.items()
        }
    )
    now = Planned(
        target=replace(target("orders"), history=history),
        pin=replace(PLAN, before=current),
        identity=Identity(system_identifier=None, started="0", database_oid=1),
        revisions=(),
        tags=False,
        applied={
            name: AppliedFile(digest="", by=run.rstrip("?"), is_begun=run.endswith("?"))
            for name, run in runs.items()
        },
    )
    return resumption_of(PLAN, now)


@pytest.mark.parametrize(
    "current", [("a1",), (), ("o",), ("x", "o"), ("unknown",), ("x", "unknown")]
)
def test_a_database_that_is_not_between_start_and_target_is_not_resumed(
    current: tuple[str, ...],
) -> None:
    assert found(*current) is None


def test_what_remains_is_stated_with_the_runs_that_have_applied_the_rest() -> None:
    one = found("x", x=RUN)
    assert one
    assert str(one) == f"1 of 3 revisions already applied by run {RUN} at {AT}; 2 remain"
    assert (one.left, one.is_whole) == (("y", "m"), False)
    both = found("x", "y", x=RUN)
    assert str(both) == (
        f"2 of 3 revisions already applied by run {RUN} at {AT} and a run that is not recorded; "
        "1 remains"
    )


def test_only_a_plan_whose_runs_are_recorded_was_carried_out() -> None:
    whole = found("m", x=RUN, y=RUN, m=RUN)
    assert whole
    assert whole.is_whole
    assert str(whole) == f"already applied by run {RUN} at {AT}, nothing to do"
    other = found("m")
    assert other
    assert not other.is_whole
    assert str(other) == "already at m, applied by a run that is not recorded; nothing to do"


def test_revisions_that_a_run_has_only_begun_are_not_carried_out() -> None:
    killed = found("m", x=RUN, y=f"{RUN}?", m=f"{RUN}?")
    assert killed
    assert (killed.unconfirmed, killed.is_whole) == (("y", "m"), False)
    gone_on = found("m", x=f"{RUN}?", y=f"{RUN}?", m=RUN)
    assert gone_on
    assert (gone_on.unconfirmed, gone_on.is_whole) == ((), True)
