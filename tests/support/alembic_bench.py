"""Services with a database and an `env.py` of their own, migrated without the command line."""

import textwrap
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.alembic_history import READ_ONLY
from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.migrations.results import Migrated, Rendered
from huleedu_tasks.migrations.revisions import History, read_history
from huleedu_tasks.migrations.runner import render, upgrade
from tests.support.db_runs import app_of, without_initdb
from tests.support.migrating import observation_of
from tests.support.monorepo import ENV_PY, REVISION, Monorepo, empty_monorepo, free_ports
from tests.support.postgres import Row, connect, fetch

SERVER = "anchor"
SHARED = "shared_db"
AT_A1 = (
    "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('a1')",
)
TOLD = {"application_name": "the run", "lock_timeout": "700ms", "statement_timeout": "41s"}


@dataclass(frozen=True)
class Case:
    """A service with its own database, and the progress of its migration."""

    service: Service
    url: DatabaseUrl
    settings: Settings
    events: Path

    @property
    def history(self) -> History:
        return read_history(self.service)

    @property
    def alembic(self) -> Alembic:
        return Alembic(service=self.service, url=self.url, settings=self.settings)

    @property
    def plain_url(self) -> str:
        return self.url.reveal().replace("+asyncpg", "")

    async def ask(self, *sql: str) -> list[Row]:
        return await fetch(self.plain_url, *sql)

    async def revisions(self) -> list[str]:
        return [row[0] for row in await self.ask("SELECT version_num FROM alembic_version")]

    async def session(
        self, settings: Mapping[str, str] = TOLD, optional_settings: Mapping[str, str] | None = None
    ) -> Observation:
        return await observation_of(self.url, self.events, settings, optional_settings)

    async def upgrade(self, target: str = "head", session: Observation | None = None) -> Migrated:
        session = session or await self.session()
        return await upgrade(self.alembic, self.history, target, session=session)

    async def failing(self, session: Observation | None = None) -> MigrationError:
        with pytest.raises(MigrationError) as caught:
            await self.upgrade(session=session)
        return caught.value

    async def kept(self) -> str:
        """Return the revision that the last run reports as partially applied."""
        return (await self.session()).kept

    async def render(self, *start: str) -> Rendered:
        session = await self.session(READ_ONLY)
        return await render(self.alembic, session, start)

    @asynccontextmanager
    async def locked(self, table: str, mode: str = "ACCESS SHARE") -> AsyncIterator[None]:
        """Hold a lock on a table in another session."""
        holder = await connect(self.plain_url)
        try:
            await holder.execute(f"BEGIN; LOCK TABLE {table} IN {mode} MODE")
            yield
        finally:
            await holder.close()


class Bench:
    """Services with databases on one server that runs, each made for one test."""

    def __init__(self, monorepo: Monorepo) -> None:
        self.monorepo = monorepo
        self._numbers = count(1)

    async def case(self, env_py: str = ENV_PY, **revisions: str) -> Case:
        """Make a service with a database, and revisions that follow one another.

        Args:
            revisions: The bodies of `upgrade()`, by revision.
        """
        name = f"service{next(self._numbers)}"
        port = self.monorepo.port(SERVER)
        self.monorepo.add_service(name, port, compose_service=SHARED)
        self.write(name, "env.py", env_py)
        parent: str | None = None
        for revision, body in revisions.items():
            self.revise(name, revision, parent, body)
            parent = revision
        maintenance = self.monorepo.url(SERVER, database="postgres")
        await fetch(maintenance, f"CREATE DATABASE huleedu_{name}")
        app = app_of(self.monorepo)
        (service,) = app.services([name])
        return Case(
            service=service,
            url=app.urls((service,))[name].url,
            settings=app.settings,
            events=self.monorepo.root.parent / f"{name}-events",
        )

    async def migrated(self, env_py: str, *statements: str) -> Case:
        """Make a service whose database is at revision `a1`, as if it had run."""
        case = await self.case(env_py, a1=sql(*statements))
        await case.ask(*statements, *AT_A1)
        return case

    def write(self, name: str, path: str, text: str) -> Path:
        return self.monorepo.write(f"services/{name}_service/alembic/{path}", text)

    def revise(
        self, name: str, revision: str, parent: str | tuple[str, ...] | None, body: str
    ) -> Path:
        text = REVISION.format(
            message=f"Revision {revision}",
            id=revision,
            parent=parent,
            upgrade=textwrap.indent(body, "    "),
        )
        return self.write(name, f"versions/{revision}.py", text)


@contextmanager
def new_bench() -> Iterator[Bench]:
    """Make a bench with a running server during a `with` block."""
    with empty_monorepo() as monorepo:
        monorepo.add_service(SERVER, *free_ports(1), compose_service=SHARED)
        assert without_initdb(monorepo).invoke("db.up").code == 0
        yield Bench(monorepo)


def sql(*statements: str) -> str:
    """Return the body of a revision that runs statements."""
    return "\n".join(f"op.execute({statement!r})" for statement in statements)
