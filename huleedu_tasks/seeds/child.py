"""The child process that applies the seeds of one service.

It is forked from a process that has imported the libraries; see `migrations/child/fork_loop.py`. A
seed that blocks, exits or changes global state affects only this process, which can be ended.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import HuleEduError, SeedError, ServerError
from huleedu_tasks.migrations.child.target_check import ReadVariables, Target, WrongDatabase
from huleedu_tasks.migrations.child.worker import INSTRUCTIONS, Used
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import EnvironmentTag, read_tag, write_tag
from huleedu_tasks.seeds import scripts, sql

if TYPE_CHECKING:
    import asyncpg

# The parts of DISCARD ALL that are allowed in a transaction.
RESET = """\
CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; UNLISTEN *;
SELECT pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES;
"""
# The server cancels the statement of a process that has ended, if it has the setting.
ENDS_WITH_CLIENT = """\
SELECT set_config(name, '500ms', false) FROM pg_settings
WHERE name = 'client_connection_check_interval'
"""
TRANSACTION = "SELECT txid_current()::text"


def main() -> int:
    """Apply the seeds named in the environment; return this process's exit code."""
    instructions = json.loads(os.environ.pop(INSTRUCTIONS))
    sys.dont_write_bytecode = True
    # Last, so that they cannot replace a library of the tasks.
    sys.path += instructions["import_paths"]
    url = _url(instructions["url"])
    variables = ReadVariables()
    used = Used(instructions["used"], variables, counts_sessions=False)
    events = _Events(instructions["events"])
    target = Target(instructions["target"], events.write, variables, {})
    seeding = Seeding(
        url=url,
        root=Path(instructions["root"]),
        seeds=[Path(path) for path in instructions["seeds"]],
        environment=instructions["environment"],
        fingerprint=instructions["fingerprint"],
        shared_by=instructions["shared_by"],
        events=events,
        target=target,
        used=used,
    )
    try:
        asyncio.run(seeding.apply())
    except WrongDatabase:
        # The target has reported it already.
        return 1
    except HuleEduError as error:
        events.write_failure(error)
        return 1
    used.write()
    events.write("done", sessions=target.opened)
    return 0


class _Events:
    """Writes events to a file, one JSON document per line."""

    def __init__(self, path: str) -> None:
        # Open until the process exits; line-buffered.
        self._file = Path(path).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def write(self, event: str, **facts: object) -> None:
        self._file.write(json.dumps({"event": event, **facts}) + "\n")

    def write_failure(self, error: HuleEduError) -> None:
        facts = {"message": error.message, "hint": error.hint, "code": error.code}
        is_server = isinstance(error, ServerError)
        self.write("failed", **facts, output=error.output, is_server=is_server)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeding:
    """The seeds of one service.

    Attributes:
        root: The root of the monorepo, for relative names of seeds in messages.
        seeds: The files, in order.
        environment: The environment for the database's tag.
        fingerprint: The fingerprint of the seeds.
        shared_by: The service's name if it shares its database; empty string otherwise.
        events: Where events are written.
        target: The database that was proven.
        used: Records every statement.
    """

    url: DatabaseUrl
    root: Path
    seeds: list[Path]
    environment: str
    fingerprint: str
    shared_by: str
    events: _Events
    target: Target
    used: Used

    async def apply(self) -> None:
        """Apply all seeds and write their fingerprint into the environment tag.

        All of it is one transaction.

        Raises:
            SeedError: If a seed fails.
            ServerError: If the database cannot be reached.
            WrongDatabase: If a seed has connected to a different database.
        """
        async with connection(self.url, uncounted=True) as session:
            transaction = session.transaction()
            await transaction.start()
            await session.execute(ENDS_WITH_CLIENT)
            session.add_query_logger(lambda record: self.used.record_statement(record.query))
            number = await session.fetchval(TRANSACTION)
            for path in self.seeds:
                self.events.write("begun", seed=self._name(path))
                await self._apply_file(path, session)
                self.target.require_hit()
                await self._require_transaction(path, session, number)
            tag = await read_tag(session, self.url.database) or EnvironmentTag(environment="")
            await write_tag(session, self.url.database, self._with_seeds(tag))
            await self._commit(transaction)

    def _with_seeds(self, tag: EnvironmentTag) -> EnvironmentTag:
        if not self.shared_by:
            return replace(tag, environment=self.environment, seeds=self.fingerprint)
        shared = {**tag.shared_seeds, self.shared_by: self.fingerprint}
        return replace(tag, environment=self.environment, shared_seeds=shared)

    async def _apply_file(self, path: Path, session: "asyncpg.Connection") -> None:
        try:
            if path.suffix == ".sql":
                await sql.run_file(session, path, self._name(path))
            else:
                with scripts.loading(path) as seed:
                    await seed(session)
        except HuleEduError:
            raise
        # A script may raise any exception, and call sys.exit().
        except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            raise SeedError(
                f"The seed {self._name(path)} failed: {type(error).__name__}: {error}",
                code="seed-failed",
                hint="Correct the seed, then run `invoke db.seed`. All seeds of the service were "
                "rolled back.",
                output=scripts.traceback_in(path, error),
            ) from None

    async def _require_transaction(
        self, path: Path, session: "asyncpg.Connection", number: str
    ) -> None:
        """Require that a seed has neither ended nor aborted the transaction."""
        import asyncpg

        ended = True
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError):
            await session.execute(RESET + ENDS_WITH_CLIENT)
            ended = await session.fetchval(TRANSACTION) != number
        if session.is_closed():
            raise ServerError(
                f"{self.url.address} closed the connection during the seed {self._name(path)}. All "
                "seeds of the service were rolled back.",
                code="connection-lost",
                hint="Read the server's log.",
            )
        if ended:
            raise SeedError(
                f"The seed {self._name(path)} ended or aborted the transaction of the seeds. "
                "Statements that it committed were kept.",
                code="seed-transaction",
                hint="Remove BEGIN, COMMIT and ROLLBACK from the seed. Use "
                "`connection.transaction()` for statements that may fail.",
            )

    async def _commit(self, transaction: Any) -> None:
        import asyncpg

        try:
            await transaction.commit()
        except asyncpg.PostgresError as error:
            raise SeedError(
                f"The commit of the seeds failed, and they were rolled back: {error}",
                code="seed-failed",
                hint="Correct the rows that violate a deferred constraint; PostgreSQL checks it at "
                "COMMIT.",
                output=str(getattr(error, "detail", None) or ""),
            ) from None

    def _name(self, path: Path) -> str:
        inside = path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else str(path)


def _url(parts: Mapping[str, Any]) -> DatabaseUrl:
    """Return a URL from its parts, with the password from PGPASSWORD."""
    password = Secret(os.environ.get("PGPASSWORD", ""))
    query = tuple((name, value) for name, value in parts["query"])
    return DatabaseUrl(**{**parts, "query": query, "password": password})
