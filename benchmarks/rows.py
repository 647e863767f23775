"""All rows, in the order of the table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import many, peers, reading, rehearsals, resets, snapshots, testing
from benchmarks.bench import Bench
from benchmarks.table import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table, which may have several lines.

    Attributes:
        measure: Measures it.
        docker: Whether it needs a Docker Engine.
        peers: Whether it needs other tools, which are installed for the run.
    """

    measure: Callable[[Bench], Iterator[Line]]
    docker: bool = False
    peers: bool = False


ROWS = {
    "warm": Row(measure=resets.warm),
    "warm-docker": Row(measure=resets.warm_docker, docker=True),
    "procedure": Row(measure=resets.procedure, docker=True),
    "cold": Row(measure=resets.cold),
    "cold-docker": Row(measure=resets.cold_docker, docker=True),
    "list": Row(measure=reading.listing),
    "complete": Row(measure=reading.completion),
    "status": Row(measure=reading.status),
    "revision": Row(measure=resets.revision),
    "snapshots": Row(measure=snapshots.snapshots),
    "test": Row(measure=testing.each),
    "first-test": Row(measure=testing.first),
    "rehearsal": Row(measure=rehearsals.rehearsal, peers=True),
    "large": Row(measure=peers.large, peers=True),
    "test-beside": Row(measure=peers.each_beside, peers=True),
    "first-test-beside": Row(measure=peers.first_beside, peers=True),
    "many": Row(measure=many.many),
}
