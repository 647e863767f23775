"""Remembers which database had no drift, so that nothing is dumped while nothing changes.

The digest of the database's catalogs changes with every change to its schema, and the inputs of the
replay are those of its template. The server of the replay is no input: what a history has created
on it stays true. Only the absence of drift is remembered, and no part of a schema.
"""

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.migrations.alembic_history import Question
from huleedu_tasks.migrations.inputs import Inputs, digest
from huleedu_tasks.postgres.catalog_state import read_catalog_state
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.inspection import identify
from huleedu_tasks.schema.dump import find_newest_program
from huleedu_tasks.schema.replay import Replays
from huleedu_tasks.templates.fingerprint import OF_SERVER

if TYPE_CHECKING:
    import asyncpg

_KIND = "drift"


@dataclass(frozen=True, kw_only=True)
class DriftCache:
    """Whether one database is known to have no drift.

    Attributes:
        catalogs: The state of its catalogs when it was looked up.
        question: The cache file.
        known: The names of the inputs that are part of the question.
    """

    catalogs: str
    question: Question
    known: Set[str]

    @property
    def fingerprint(self) -> str | None:
        """The digest of the schema, see `read_fingerprint`, if nothing has changed since.

        None if the database is not known to have no drift.
        """
        answer = self.question.cached_answer()
        return answer[0]["fingerprint"] if answer else None

    async def keep(
        self, connection: "asyncpg.Connection", inputs: Inputs, *, fingerprint: str
    ) -> None:
        """Remember that the database has no drift, unless it has changed meanwhile.

        Args:
            connection: A connection to the database.
            inputs: Those of the template with the expected schema.
            fingerprint: The digest of the schema.
        """
        if self.catalogs == await read_catalog_state(connection):
            beside = inputs.keys() - self.known - OF_SERVER
            self.question.cache_with(
                [{"fingerprint": fingerprint}], {name: inputs[name] for name in beside}
            )


async def look_up(
    service: Service,
    url: DatabaseUrl,
    connection: "asyncpg.Connection",
    replays: Replays,
    *,
    details: Sequence[object],
) -> DriftCache:
    """Look up whether a database has no drift.

    Args:
        connection: A connection to the database.
        details: What the comparison depends on besides the database and the inputs of the replay.
    """
    async with answering(url.address):
        catalogs = await read_catalog_state(connection)
    identity = await identify(connection)
    known = replays.known_inputs(service)
    about = [
        *_comparing(),
        # A server that was restored or promoted may use the ids of lost transactions again.
        *(str(identity.system_identifier), identity.started, catalogs),
        *map(repr, (service.directory, url.user, url.address, url.database, *details)),
        json.dumps(known, sort_keys=True),
    ]
    question = Question(
        state=replays.state,
        name=f"{service.name}.{_KIND}.{digest([url.address, url.database])}.json",
        about=about,
        present=replays.present,
    )
    return DriftCache(catalogs=catalogs, question=question, known=known.keys())


def _comparing() -> tuple[str, ...]:
    """Return what compares: the version of this package, and pg_dump with the time of its file."""
    from importlib.metadata import version

    program = find_newest_program("pg_dump")
    return version("huleedu-tasks"), program, str(Path(program).stat().st_mtime_ns)
