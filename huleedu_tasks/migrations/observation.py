"""The instructions for a run of Alembic, and the events that it writes while it runs."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import UNCOUNTED
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.postgres.locks import Hold
from huleedu_tasks.report import AppliedRevision

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovedInputs:
    """The files from which the SQL of an approved plan was rendered.

    Attributes:
        root: The directory to which the paths are relative.
        digests: The SHA-256 of each file, by its path.
    """

    root: Path
    digests: Mapping[str, str]

    def as_json(self) -> dict[str, object]:
        """Return the JSON object that the worker reads."""
        return {"root": str(self.root), "digests": dict(self.digests)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The instructions for a run of Alembic, and the events that it writes.

    Attributes:
        events: The file that receives the events; see `worker.py`.
        settings: Settings of PostgreSQL for each of its sessions.
        optional_settings: Settings that a server may refuse.
        target: The start time of the server and the OID of the database to migrate.
        hold: The advisory lock of the run; None if it has none.
        inputs: Files that must be unchanged since approval; None to compare none.
        go_on: A file. No further revision is begun after it was deleted. None to run all.
    """

    events: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    optional_settings: Mapping[str, str] = field(default_factory=dict)
    target: tuple[str, int]
    hold: Hold | None = None
    inputs: ApprovedInputs | None = None
    go_on: Path | None = None

    def instructions(
        self,
        url: str,
        *,
        used: Path | None = None,
        start: Sequence[str] | None = None,
        is_asking: bool = False,
        writing: Path | None = None,
        walking: Mapping[str, object] | None = None,
        comparing: Mapping[str, str] | None = None,
    ) -> str:
        """Return the JSON document that the worker reads.

        Args:
            url: Replaces the URL in the service's Alembic configuration.
            used: The file that receives the inputs; None to track no inputs.
            start: The revisions from which SQL is rendered; None to run the revisions.
            is_asking: Whether `env.py` is only asked for its configuration.
            writing: The file that receives which revision file is written; None to write none.
            walking: The steps to run instead of those of the command; None to run those.
            comparing: How to compare the models with the database; None not to compare.
        """
        return json.dumps(
            {
                "writing": str(writing) if writing else None,
                "walking": walking,
                "comparing": comparing,
                "is_asking": is_asking,
                "used": str(used) if used else None,
                "events": str(self.events),
                "settings": dict(self.settings),
                "optional_settings": dict(self.optional_settings),
                "target": self.target,
                "url": url,
                "start": start,
                "lock": {"held": self.hold.joined, "others": self.hold.others}
                if self.hold
                else None,
                "inputs": self.inputs.as_json() if self.inputs else None,
                "go_on": str(self.go_on) if self.go_on else None,
            }
        )

    def read_events(self) -> list[dict[str, Any]]:
        """Return the events that were written so far, in order."""
        if not self.events.exists():
            return []
        # The last line may be incomplete.
        whole, _, _ = self.events.read_text(encoding="utf-8").rpartition("\n")
        events = []
        for line in whole.splitlines():
            # A full disk may have truncated a line.
            with suppress(ValueError):
                events.append(json.loads(line))
        return events

    @property
    def version_tables(self) -> tuple[VersionTable, ...]:
        """The version tables that `env.py` configured, in order; empty if it configured none."""
        configured = [event for event in self.read_events() if event["event"] == "configured"]
        return tuple(dict.fromkeys(map(_version_table, configured)))

    @property
    def before(self) -> tuple[str, ...]:
        """The revisions of the database before the run, as Alembic read them."""
        found = (event["revisions"] for event in self.read_events() if event["event"] == "before")
        return tuple(next(found, ()))

    @property
    def queried_first(self) -> bool:
        """Whether `env.py` queried the database before it configured Alembic."""
        return any(event["event"] == "queried" for event in self.read_events())

    @property
    def was_refused(self) -> bool:
        """Whether the worker stopped the run, even if `env.py` ignored the exception."""
        refusals = ("mismatch", "lock lost", "changed")
        return any(event["event"] in refusals for event in self.read_events())

    @property
    def begun(self) -> str:
        """The revision that was begun last; an empty string if none was."""
        return next(
            (str(e["revision"]) for e in reversed(self.read_events()) if e["event"] == "begun"), ""
        )

    @property
    def stopped_early(self) -> bool:
        """Whether the run stopped before its last revision, as requested."""
        return any(event["event"] == "stopped" for event in self.read_events())

    @property
    def kept(self) -> str:
        """A revision that may be partially applied, because it committed before its end.

        An empty string if there is none.
        """
        kept = ""
        for event in self.read_events():
            if event["event"] in ("kept", "committed"):
                kept = str(event.get("revision", ""))
        return kept


def applied_revisions(
    sessions: Sequence[Observation], history: History, before: Sequence[str], after: Sequence[str]
) -> tuple[AppliedRevision, ...]:
    """Return the revisions that a run applied, with their durations.

    The database decides which were applied; events of Alembic add only the durations.
    """
    runs = [
        event for session in sessions for event in session.read_events() if event["event"] == "run"
    ]
    seconds = {str(event["revision"]): float(event["seconds"]) for event in runs}
    return tuple(
        AppliedRevision(
            revision=revision.id, message=revision.message, seconds=seconds.get(revision.id)
        )
        for revision in history.between(before, after)
    )


def _version_table(event: Mapping[str, Any]) -> VersionTable:
    # A configured schema needs no search path.
    path = () if event["schema"] else tuple(event["search_path"])
    return VersionTable(name=event["table"], schema=event["schema"], search_path=path)


async def throwaway_observation(
    admin: "asyncpg.Connection", url: DatabaseUrl, events: Path, **settings: str
) -> Observation:
    """Return the instructions for a run of Alembic on a throwaway database.

    Args:
        admin: A login on its server.
        events: The file that receives the events of the run.
        settings: Settings of PostgreSQL for each of its sessions.
    """
    place = await databases.place(admin, url.database)
    return Observation(events=events, settings=settings, optional_settings=UNCOUNTED, target=place)
