"""The graph of a history, for reports: where the database, the heads and the base branch are."""

from collections.abc import Collection, Mapping, Sequence

from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.report import GraphRevision, Place

DATABASE, HEAD = "database", "head"


def graph_of_database(history: History, current: Sequence[str]) -> tuple[GraphRevision, ...]:
    """Return the graph of a history, with what a database has applied.

    Args:
        current: The revisions of the database; those that are not in the history are left out.
    """
    applied = history.applied(current)
    places = {
        name: Place.APPLIED if name in applied else Place.PENDING for name in history.revisions
    }
    return _graph(history, places, {DATABASE: current, HEAD: history.heads})


def graph_of_branch(
    history: History, base: Mapping[str, Revision] | None, ref: str
) -> tuple[GraphRevision, ...]:
    """Return the graph of a history, with the revisions that only the base branch has.

    Args:
        base: The revisions of the base branch; None if there is none.
        ref: The name of the base branch.
    """
    if base is None:
        return _graph(history, {}, {HEAD: history.heads})
    both = History(revisions={**base, **history.revisions})
    places = {
        name: Place.OTHER
        if name not in history.revisions
        else Place.APPLIED
        if name in base
        else Place.NEW
        for name in both.revisions
    }
    heads = History(revisions=base).heads
    return _graph(both, places, {ref: heads, HEAD: history.heads})


def _graph(
    history: History, places: Mapping[str, Place], labels: Mapping[str, Collection[str]]
) -> tuple[GraphRevision, ...]:
    return tuple(
        GraphRevision(
            revision=revision.id,
            message=revision.message,
            parents=tuple(dict.fromkeys(history.needs(revision.id))),
            place=places.get(revision.id, Place.PLAIN),
            labels=tuple(label for label, names in labels.items() if revision.id in names),
        )
        for revision in history.between((), history.heads)
    )
