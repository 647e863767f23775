"""All rows, in the order of the tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from benchmarks import (
    histories,
    many,
    peers,
    plans,
    reading,
    rehearsals,
    resets,
    snapshots,
    start_up,
    strange,
    testing,
)
from benchmarks.bench import Bench
from benchmarks.table import Line


class Group(StrEnum):
    """A table of rows, which `--only` names."""

    GOALS = "goals"
    PEERS = "peers"
    MORE = "more"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a table, which may have several lines.

    Attributes:
        measure: Measures it.
        group: The table it belongs to.
        docker: Whether it needs a Docker Engine.
        peers: Whether it needs other tools, which are installed for the run.
    """

    measure: Callable[[Bench], Iterator[Line]]
    group: Group
    docker: bool = False
    peers: bool = False


ROWS = {
    "warm": Row(measure=resets.warm, group=Group.GOALS),
    "warm-docker": Row(measure=resets.warm_docker, group=Group.GOALS, docker=True),
    "cold": Row(measure=resets.cold, group=Group.GOALS),
    "cold-docker": Row(measure=resets.cold_docker, group=Group.GOALS, docker=True),
    "procedure": Row(measure=resets.procedure, group=Group.GOALS, docker=True),
    "list": Row(measure=reading.listing, group=Group.GOALS),
    "complete": Row(measure=reading.completion, group=Group.GOALS),
    "status": Row(measure=reading.status, group=Group.GOALS),
    "check": Row(measure=strange.check, group=Group.GOALS),
    "plan": Row(measure=plans.plan, group=Group.GOALS),
    "first-reset": Row(measure=strange.first_reset, group=Group.GOALS),
    "start-up": Row(measure=start_up.start_up, group=Group.PEERS, peers=True),
    "upgrade": Row(measure=start_up.upgrade, group=Group.PEERS, peers=True),
    "many": Row(measure=many.many, group=Group.PEERS, peers=True),
    "history": Row(measure=histories.history, group=Group.PEERS, peers=True),
    "rehearsal": Row(measure=rehearsals.rehearsal, group=Group.PEERS, peers=True),
    "large": Row(measure=peers.large, group=Group.PEERS, peers=True),
    "test-beside": Row(measure=peers.each_beside, group=Group.PEERS, peers=True),
    "first-test-beside": Row(measure=peers.first_beside, group=Group.PEERS, peers=True),
    "revision": Row(measure=resets.revision, group=Group.MORE),
    "snapshots": Row(measure=snapshots.snapshots, group=Group.MORE),
    "test": Row(measure=testing.each, group=Group.MORE),
    "first-test": Row(measure=testing.first, group=Group.MORE),
}
