"""The rows of a drawn revision graph: the latest revision first, as `git log --graph` has them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from huleedu_tasks.report import GraphRevision

# A longer run of revisions that nothing is at is folded, except for its ends.
LONGEST_RUN = 7
KEPT_BEFORE, KEPT_BEHIND = 2, 1
# More lanes are drawn over the last one.
MOST_LANES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A revision, and the lines beside it.

    Attributes:
        lane: The lane of its dot, from 0.
        above: The lines in the upper half, each from a lane to a lane.
        below: The lines in the lower half.
        lanes: How many lanes the graph has.
    """

    revision: GraphRevision
    lane: int
    above: tuple[tuple[int, int], ...]
    below: tuple[tuple[int, int], ...]
    lanes: int

    @property
    def is_notable(self) -> bool:
        """Whether something is at the revision, or lines meet or part there."""
        meets = [begin for begin, end in self.above if end == self.lane]
        parts = [end for begin, end in self.below if begin == self.lane]
        return bool(self.revision.labels) or len(meets) != 1 or len(parts) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Successive rows.

    Attributes:
        is_folded: Whether they are hidden at first.
        through: The lanes that go through all of them.
    """

    rows: tuple[Row, ...]
    is_folded: bool

    @property
    def through(self) -> tuple[tuple[int, int], ...]:
        """The lines beside the heading of a folded group."""
        return tuple((begin, begin) for begin in dict.fromkeys(b for b, _ in self.rows[0].above))


def graph_groups(graph: Sequence[GraphRevision]) -> tuple[Group, ...]:
    """Return the rows of a graph, in which long runs of similar revisions are folded.

    Args:
        graph: The revisions, parents first.
    """
    groups: list[Group] = []
    for notable, same in groupby(_rows(graph), lambda row: row.is_notable or row.revision.place):
        rows = tuple(same)
        if notable is True or len(rows) <= LONGEST_RUN:
            parts: tuple[tuple[Row, ...], ...] = (rows,)
        else:
            behind = len(rows) - KEPT_BEHIND
            parts = (rows[:KEPT_BEFORE], rows[KEPT_BEFORE:behind], rows[behind:])
        groups += [Group(rows=part, is_folded=index == 1) for index, part in enumerate(parts)]
    return tuple(groups)


def _rows(graph: Sequence[GraphRevision]) -> tuple[Row, ...]:
    rows = list(_drawn(graph))
    lanes = 1 + max((max(pair) for row in rows for pair in (*row.above, *row.below)), default=0)
    return tuple(
        Row(revision=row.revision, lane=row.lane, above=row.above, below=row.below, lanes=lanes)
        for row in rows
    )


def _drawn(graph: Sequence[GraphRevision]) -> Iterator[Row]:
    """Yield the rows, the latest revision first; each lane waits for the next revision on it."""
    waiting: list[str | None] = []
    for revision in reversed(graph):
        before = list(waiting)
        lane = _lane_for(revision.revision, waiting)
        above = tuple(
            (number, lane if name == revision.revision else number)
            for number, name in enumerate(before)
            if name is not None
        )
        waiting = [None if name == revision.revision else name for name in waiting]
        passing = [(number, number) for number, name in enumerate(waiting) if name is not None]
        own = []
        for position, parent in enumerate(revision.parents):
            if position == 0 and parent not in waiting:
                waiting[lane] = parent
                own.append((lane, lane))
            else:
                own.append((lane, _lane_for(parent, waiting)))
        yield Row(
            revision=revision,
            lane=_drawn_lane(lane),
            above=_limited(above),
            below=_limited((*passing, *own)),
            lanes=0,
        )


def _lane_for(name: str, waiting: list[str | None]) -> int:
    """Return the lane that waits for a revision; a free one, which then does, if none does."""
    if name in waiting:
        return waiting.index(name)
    lane = waiting.index(None) if None in waiting else len(waiting)
    waiting[lane : lane + 1] = [name]
    return lane


def _drawn_lane(lane: int) -> int:
    return min(lane, MOST_LANES - 1)


def _limited(lines: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple(dict.fromkeys((_drawn_lane(begin), _drawn_lane(end)) for begin, end in lines))
