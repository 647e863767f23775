"""Returns the revisions and the version tables of services.

Literal values are read from files. Otherwise Alembic is asked in a child process, and its answer is
cached in the state directory until one of its inputs changes.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import Finding, HuleEduError, MigrationError
from huleedu_tasks.migrations.alembic_config import NotUnderstood, script_directory
from huleedu_tasks.migrations.cache_files import read_cache, write_cache
from huleedu_tasks.migrations.child_process import Alembic, environment_of
from huleedu_tasks.migrations.forkserver import WarmWorkers
from huleedu_tasks.migrations.inputs import Inputs, Present, Seen
from huleedu_tasks.migrations.revision_files import revision_files
from huleedu_tasks.migrations.revisions import History, Revision, history_of, read_history
from huleedu_tasks.migrations.version_table import stated_version_table
from huleedu_tasks.postgres.databases import VersionTable, place
from huleedu_tasks.postgres.version_tables import read_revisions
from huleedu_tasks.process import scratch_directory

if TYPE_CHECKING:
    import asyncpg

    from huleedu_tasks.migrations.results import ReportedTables, Used

# An `env.py` that is only asked must not write.
READ_ONLY = {"default_transaction_read_only": "on", "statement_timeout": "30s"}
REVISIONS, VERSION_TABLES = "revisions", "version-tables"
# The format of cache files; those with another one are ignored.
FORMAT = 3


@dataclass(kw_only=True)
class AlembicHistories:
    """The revisions and version tables of services, for one command.

    Attributes:
        state: The state directory with the cache; None for no cache.
        lender: Those whose fork server is used; None for one of its own.
    """

    settings: Settings
    state: Path | None
    lender: "AlembicHistories | None" = None
    _workers: WarmWorkers | None = field(default=None, repr=False)
    _seen: Seen = field(default_factory=Seen, repr=False)

    async def history(
        self, service: Service, url: DatabaseUrl | None = None, *, may_branch: bool = False
    ) -> History:
        """Return a service's current revisions.

        Args:
            service: The service.
            url: The URL in the service's variables while Alembic is asked; None for no URL.
            may_branch: Whether the history may have several heads.

        Raises:
            MigrationError: If the revisions do not form one history, with all findings.
        """
        try:
            with revision_files(self.state, service.name) as files:
                return read_history(service, may_branch=may_branch, read=files.revision)
        except NotUnderstood:
            pass
        question = self.question(service, REVISIONS)
        cached_answer = question.cached_answer()
        if cached_answer is not None:
            cached = [_revision(stated) for stated in cached_answer]
            return history_of(cached, may_branch=may_branch)
        from huleedu_tasks.migrations import runner

        found = await runner.report_revisions(service, url, self.settings, workers=self.workers)
        if found.contradictions:
            raise MigrationError(
                "The revisions do not form one history; nothing was run.",
                code="history-broken",
                findings=[Finding(place="", problem=text) for text in found.contradictions],
                hint="Correct the files.",
            )
        answer = [asdict(revision) | {"path": str(revision.path)} for revision in found.revisions]
        question.cache_answer(answer, found.used)
        return history_of(found.revisions, may_branch=may_branch)

    async def version_tables(
        self, service: Service, url: DatabaseUrl, connection: "asyncpg.Connection"
    ) -> tuple[VersionTable, ...] | None:
        """Return the version tables that a service's `env.py` configures on its database.

        Args:
            connection: A connection to that database, to which `env.py` must connect.

        Returns:
            The tables; None if `env.py` cannot be asked.

        Raises:
            Refused: If `env.py` connects to a different database.
        """
        if (known := self.known_version_tables(service, url)) is not None:
            return known
        try:
            found = await self.ask_tables(service, url, await place(connection, url.database))
        except MigrationError:
            return None
        self._cache_tables(service, url, found)
        return found.tables

    async def ask_tables(
        self, service: Service, url: DatabaseUrl, target: tuple[str, int]
    ) -> "ReportedTables":
        """Ask a service's `env.py` for its version tables, its role and its search path.

        Args:
            target: The start time of the server and the OID of the database, to which `env.py` must
                connect.

        Raises:
            MigrationError: If `env.py` cannot be asked.
            Refused: If `env.py` connects to a different database.
        """
        from huleedu_tasks.migrations import runner
        from huleedu_tasks.migrations.observation import Observation

        with scratch_directory() as directory:
            session = Observation(
                events=directory / "events",
                settings=READ_ONLY,
                target=target,
            )
            return await runner.report_version_tables(self.alembic(service, url), session)

    def known_version_tables(
        self, service: Service, url: DatabaseUrl
    ) -> tuple[VersionTable, ...] | None:
        """Return the version tables that `env.py` configures literally, or those in the cache.

        Returns:
            The tables; None if `env.py` must be asked.
        """
        # A reported table takes precedence over one that was parsed.
        cached_answer = self.question(service, VERSION_TABLES, url).cached_answer()
        if cached_answer is not None:
            return tuple(_version_table(stated) for stated in cached_answer)
        return _stated_tables(service)

    def cache_reported_tables(
        self, service: Service, url: DatabaseUrl, reported: "ReportedTables"
    ) -> None:
        """Cache the version tables that a migration reported, unless they are literal."""
        if reported.tables and reported.tables != _stated_tables(service):
            self._cache_tables(service, url, reported)

    async def current(
        self,
        service: Service,
        url: DatabaseUrl,
        connection: "asyncpg.Connection",
        history: History,
    ) -> tuple[str, ...]:
        """Return the current revisions of a database: those of its least advanced version table.

        Args:
            connection: A connection to that database.

        Raises:
            Refused: If `env.py` connects to a different database.
            ServerError: If they cannot be read, or several tables may be the version table.
        """
        tables = await self.version_tables(service, url, connection)
        return history.least_advanced(await read_revisions(connection, tables))

    def alembic(self, service: Service, url: DatabaseUrl) -> Alembic:
        """Return a service's Alembic for a database, in processes of the fork server."""
        return Alembic(service=service, url=url, settings=self.settings, workers=self.workers)

    @property
    def workers(self) -> WarmWorkers:
        """The fork server, started when it is first needed."""
        if self.lender:
            return self.lender.workers
        self._workers = self._workers or WarmWorkers(self.settings.tool_environment())
        return self._workers

    async def aclose(self) -> None:
        """End the fork server; a later question starts a new one."""
        workers, self._workers = self._workers, None
        if workers:
            await workers.aclose()

    def _cache_tables(self, service: Service, url: DatabaseUrl, reported: "ReportedTables") -> None:
        # An answer that depends on the database's data is not cached.
        if not reported.queried_first:
            answer = [asdict(table) for table in reported.tables]
            self.question(service, VERSION_TABLES, url).cache_answer(answer, reported.used)

    def question(
        self,
        service: Service,
        kind: str,
        url: DatabaseUrl | None = None,
        *,
        details: Sequence[str] = (),
    ) -> "Question":
        """Return a question to a service's code, with the cache of its answer.

        Args:
            service: The service.
            kind: What is asked, which names the cache file.
            url: The URL in the service's variables; None for no URL.
            details: What the answer depends on besides the service, the URL and the inputs.
        """
        where = f"{service.name}.{kind}.{self.settings.environment}.json"
        about = [str(service.directory), *service.alembic_arguments, *service.python]
        about += [*service.alembic_options.values(), *details]
        if url is not None:
            about += [str(self.settings.environment), f"{url.user} {url.address} {url.database}"]
        return Question(
            state=self.state,
            name=where,
            about=about,
            present=Present.of(
                self.settings,
                environment_of(service, self.settings, url),
                # A command may write a revision, but no `env.py`.
                Seen(installed=self._seen.installed) if kind == REVISIONS else self._seen,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question to a service's Alembic, and the cache file of its answer.

    Attributes:
        state: The state directory; None for no cache.
        name: The name of the file.
        about: Identifies the service and the question.
        present: The current state of inputs.
    """

    state: Path | None
    name: str
    about: list[str]
    present: Present

    def cached_answer(self) -> list[dict[str, Any]] | None:
        """Return the cached answer; None if it is missing or an input has changed."""
        document = read_cache(self.state, self.name)
        # A document with other fields counts as missing.
        with suppress(KeyError, TypeError):
            is_ours = (document["format"], document["about"]) == (FORMAT, self.about)
            if is_ours and not self.present.changed(document["inputs"]):
                answer: list[dict[str, Any]] = document["answer"]
                return answer
        return None

    def cache_answer(self, answer: list[dict[str, Any]], used: "Used | None") -> None:
        """Cache an answer with its inputs, unless they are None or cannot be tracked."""
        if used is not None and not used.untracked:
            self.cache_with(answer, self.present.inputs(used))

    def cache_with(self, answer: list[dict[str, Any]], inputs: Inputs) -> None:
        """Cache an answer with the inputs on which it depends."""
        if self.state is None:
            return
        document = {
            "format": FORMAT,
            "about": self.about,
            "inputs": dict(inputs),
            "answer": answer,
        }
        write_cache(self.state, self.name, document)


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
