"""What each service's own Alembic says: its revisions, and the version table it keeps.

Where files state it literally they are read; otherwise Alembic is asked in a process of its own,
and its answer is remembered in the state directory until anything it depends on has changed.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import Finding, HuleEduError, MigrationError, ServerError
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.forkserver import WarmWorkers
from huleedu_tasks.migrations.inputs import Present
from huleedu_tasks.migrations.revisions import (
    History,
    NotUnderstood,
    Revision,
    history_of,
    read_history,
    script_directory,
)
from huleedu_tasks.migrations.runner import Observation, ReportedTables, Used
from huleedu_tasks.migrations.version_table import stated_version_table
from huleedu_tasks.postgres.databases import VersionTable, place
from huleedu_tasks.postgres.inspection import read_revisions
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.state_dir import make_directory, make_state_directory

if TYPE_CHECKING:
    import asyncpg

# Whatever an `env.py` does while it is asked, it changes nothing.
READ_ONLY = {"default_transaction_read_only": "on", "statement_timeout": "30s"}
DIRECTORY = "alembic"
REVISIONS, VERSION_TABLES = "revisions", "version-tables"
# Of the files that answers are remembered in; another one is not read.
FORMAT = 2
ONLY_THE_OWNER = 0o600


@dataclass(kw_only=True)
class AlembicHistories:
    """The answers of one run.

    Attributes:
        state: The state directory, where answers are remembered; None to remember none.
    """

    settings: Settings
    state: Path | None
    _workers: WarmWorkers | None = field(default=None, repr=False)
    _installed: dict[str, str] = field(default_factory=dict, repr=False)

    async def history(self, service: Service, url: DatabaseUrl | None = None) -> History:
        """Return a service's revisions, as its files are now.

        Args:
            url: What the service's variables name while Alembic is asked; None for nothing.

        Raises:
            MigrationError: With everything that keeps them from being one history.
        """
        try:
            return read_history(service)
        except NotUnderstood:
            pass
        question = self._question(service, REVISIONS)
        remembered = question.remembered()
        if remembered is not None:
            return history_of([_revision(each) for each in remembered])
        found = await runner.report_revisions(service, url, self.settings, workers=self.workers)
        if found.contradictions:
            raise MigrationError(
                "Its revisions do not form one history.",
                code="history-broken",
                findings=[Finding(place="", problem=text) for text in found.contradictions],
                hint="Nothing was run. Correct the files.",
            )
        answer = [asdict(each) | {"path": str(each.path)} for each in found.revisions]
        question.remember(answer, found.used)
        return history_of(found.revisions)

    async def version_tables(
        self, service: Service, url: DatabaseUrl, connection: "asyncpg.Connection"
    ) -> tuple[VersionTable, ...] | None:
        """Return the version tables that a service's `env.py` configures on its database.

        Args:
            connection: To that database; it says which one `env.py` must connect to.

        Returns:
            None if `env.py` cannot be asked.

        Raises:
            Refused: If `env.py` connects to another database.
        """
        if (known := self.known_version_tables(service, url)) is not None:
            return known
        try:
            found = await self.ask_tables(service, url, connection)
        except MigrationError:
            return None
        self._remember_tables(service, url, found)
        return found.tables

    async def ask_tables(
        self, service: Service, url: DatabaseUrl, connection: "asyncpg.Connection"
    ) -> ReportedTables:
        """Have a service's `env.py` say which version tables it configures, and as which role.

        Args:
            connection: To its database; it says which one `env.py` must connect to.

        Raises:
            MigrationError: If `env.py` cannot be asked.
            Refused: If `env.py` connects to another database.
        """
        with scratch_directory() as directory:
            session = Observation(
                events=directory / "events",
                settings=READ_ONLY,
                target=await place(connection, url.database),
            )
            return await runner.report_version_tables(
                service, url, self.settings, session, workers=self.workers
            )

    def known_version_tables(
        self, service: Service, url: DatabaseUrl
    ) -> tuple[VersionTable, ...] | None:
        """Return the version tables that `env.py` states literally, or is known to configure.

        Returns:
            None if it must be asked.
        """
        # What Alembic reported itself is worth more than our own reading.
        remembered = self._question(service, VERSION_TABLES, url).remembered()
        if remembered is not None:
            return tuple(_version_table(each) for each in remembered)
        return _stated_tables(service)

    def learn(self, service: Service, url: DatabaseUrl, reported: ReportedTables) -> None:
        """Remember what a migration reported, where `env.py` does not state it literally."""
        if reported.tables and reported.tables != _stated_tables(service):
            self._remember_tables(service, url, reported)

    async def current(
        self,
        service: Service,
        url: DatabaseUrl,
        connection: "asyncpg.Connection",
        history: History,
    ) -> tuple[str, ...]:
        """Return the revisions a database is at: those of its least advanced version table.

        Args:
            connection: To that database.

        Raises:
            Refused: If `env.py` connects to another database.
            ServerError: If they cannot be read, or several tables may be the one.
        """
        tables = await self.version_tables(service, url, connection)
        return history.least_advanced(await read_revisions(connection, tables))

    @property
    def workers(self) -> WarmWorkers:
        """The processes that ask, started when the first of them is needed."""
        self._workers = self._workers or WarmWorkers()
        return self._workers

    async def aclose(self) -> None:
        """End the processes that ask; another question starts new ones."""
        workers, self._workers = self._workers, None
        if workers:
            await workers.aclose()

    def _remember_tables(
        self, service: Service, url: DatabaseUrl, reported: ReportedTables
    ) -> None:
        # An answer that depends on data may be another one at any time.
        if not reported.queried_first:
            answer = [asdict(each) for each in reported.tables]
            self._question(service, VERSION_TABLES, url).remember(answer, reported.used)

    def _question(self, service: Service, kind: str, url: DatabaseUrl | None = None) -> "Question":
        where = f"{service.name}.{kind}.{self.settings.environment}.json"
        about = [str(service.directory), *service.alembic_arguments, *service.python]
        about += service.alembic_options.values()
        if url is not None:
            about += [str(self.settings.environment), f"{url.user} {url.address} {url.database}"]
        return Question(
            state=self.state,
            name=where,
            about=about,
            present=Present.of(
                self.settings, runner.environment_of(service, self.settings, url), self._installed
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question to a service's Alembic, and the file that its answer is remembered in.

    Attributes:
        state: The state directory; None to remember nothing.
        name: The file's name.
        about: What was asked of which service.
        present: What the service's code finds now.
    """

    state: Path | None
    name: str
    about: list[str]
    present: Present

    def remembered(self) -> list[dict[str, Any]] | None:
        """Return the answer, or None if there is none or it may be another one now."""
        # A file that cannot be read is one that is not there.
        with suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(self._path(self.state).read_bytes()) if self.state else {}
            is_ours = (document["format"], document["about"]) == (FORMAT, self.about)
            if is_ours and not self.present.changed(document["inputs"]):
                answer: list[dict[str, Any]] = document["answer"]
                return answer
        return None

    def remember(self, answer: list[dict[str, Any]], used: Used | None) -> None:
        """Remember an answer with everything that was used for it; None: that is not known."""
        if self.state is None or used is None or used.untracked:
            return
        document = {
            "format": FORMAT,
            "about": self.about,
            "inputs": dict(self.present.inputs(used)),
            "answer": answer,
        }
        # Without it the next command asks once more.
        with suppress(OSError, ServerError):
            make_state_directory(self.state)
            path = self._path(self.state)
            make_directory(path.parent)
            partial = path.with_name(f"{path.name}.{os.getpid()}")
            partial.touch(ONLY_THE_OWNER)
            partial.write_text(json.dumps(document), encoding="utf-8")
            partial.rename(path)

    def _path(self, state: Path) -> Path:
        return state / DIRECTORY / self.name


def _stated_tables(service: Service) -> tuple[VersionTable, ...] | None:
    with suppress(HuleEduError):
        return (stated_version_table(script_directory(service) / "env.py"),)
    return None


def _revision(stated: Mapping[str, Any]) -> Revision:
    return Revision(
        id=stated["id"],
        parents=tuple(stated["parents"]),
        depends_on=tuple(stated["depends_on"]),
        message=stated["message"],
        path=Path(stated["path"]),
    )


def _version_table(stated: Mapping[str, Any]) -> VersionTable:
    return VersionTable(
        name=stated["name"],
        schema=stated["schema"],
        search_path=tuple(stated["search_path"]),
    )
