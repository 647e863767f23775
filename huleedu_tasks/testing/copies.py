"""The databases of tests, copied and dropped in the background.

From the second use of a template on, the next copy is made while the test with the last one runs.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.postgres.server_errors import converted_errors
from huleedu_tasks.testing.runs import Run, own_name
from huleedu_tasks.testing.servers import Server

# The uses of a template after which another one is expected.
_MANY = 2


class Copies:
    """The databases that one worker has copied.

    Its methods run in one event loop.

    Args:
        run: The run, which is part of their names.

    Attributes:
        problems: What went wrong in the background.
    """

    def __init__(self, run: Run) -> None:
        self.problems: list[str] = []
        self._run = run
        self._number = 0
        self._uses: Counter[str] = Counter()
        self._spares: dict[str, asyncio.Task[str]] = {}
        self._servers: dict[str, Server] = {}
        self._work: set[asyncio.Task[None]] = set()

    async def take(self, server: Server, template: str, database: str) -> str:
        """Return the name of a new copy, and begin to make the next one.

        Args:
            template: The name of the database to copy.
            database: The name of the service's database, which the name of the copy ends with.

        Raises:
            ServerError: If it could not be copied.
        """
        spare = self._spares.pop(template, None)
        name = await (spare or self._copy(server, template, database))
        self._uses[template] += 1
        if self._uses[template] >= _MANY:
            self._spares[template] = asyncio.create_task(self._copy(server, template, database))
            self._servers[template] = server
        return name

    async def drop_later(self, server: Server, name: str) -> None:
        """Begin to drop a copy."""
        self._begin(server.drop(name))

    async def drop_ended_later(self, server: Server, checkout: str) -> None:
        """Begin to drop what runs of this checkout have left on a server."""
        run = self._run
        self._begin(server.drop_all(lambda token, of: run.has_ended(token, is_ours=of == checkout)))

    async def drop_own(self, server: Server) -> None:
        """Drop every database of this run on a server."""
        await self._run_and_note_failure(server.drop_all(lambda token, _: token == self._run.token))

    async def finish(self) -> None:
        """Drop the copies that no test has used, and wait for all work."""
        for template, task in self._spares.items():
            # One that failed is dropped by the last worker, or by the next run.
            with suppress(Exception):
                await self._servers[template].drop(await task)
        await asyncio.gather(*self._work)

    async def _copy(self, server: Server, template: str, database: str) -> str:
        self._number += 1
        name = own_name(self._run.token, self._run.worker, str(self._number), database=database)
        await server.copy(template, name)
        return name

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._run_and_note_failure(work))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _run_and_note_failure(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work; a failure is reported when the run ends."""
        try:
            with converted_errors():
                await work
        except HuleEduError as error:
            self.problems.append(str(error))
