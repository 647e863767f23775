"""A production for `prod.migrate`: its databases are restored for each test.

TEST_PRODUCTION_SERVICES says how many services it has, at most eight: each costs every command of
every test. The long campaign is `TEST_PRODUCTION_SERVICES=8 pytest tests/production`.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from tests.support.monorepo import PASSWORD, USER, Monorepo, Ran, wait_until
from tests.support.observe import (
    assert_no_password,
    assert_no_password_in_files,
    assert_no_password_on_screen,
    watched_command_lines,
)
from tests.support.postgres import TEST, ask
from tests.support.production import Production, admin_url, new_production

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
COUNT = int(os.environ.get("TEST_PRODUCTION_SERVICES", "3"))
SERVICES = (*NAMES[: COUNT - 1], NAMES[-1])
# Fewer services cost less where a test needs no others.
ALPHA = ("--service", "alpha")
ALPHA_AND_BETA = (*ALPHA, "--service", "beta")
HOST = "localhost"
YES = ("--yes", "--host", HOST)
START = "a1"
BEGINNING = "beginning"
TAG = 'huleedu-tasks {"environment": "production"}'
# A part of every form of the password, and of nothing else on this machine.
CANARY = "-of-the-rehearsal"
# Seconds; the processes of a migration live longer, and there are hundreds of migrations.
BETWEEN_LOOKS = 0.5
MADE = r"SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'made\_by\_%'"


@dataclass(frozen=True)
class Rehearsal:
    """The production of a monorepo, whose revisions each create one table of their name."""

    production: Production

    @property
    def monorepo(self) -> Monorepo:
        """The directory of the revisions."""
        return self.production.monorepo

    @property
    def runs(self) -> Path:
        """The directory of the records."""
        return self.monorepo.state / "runs"

    def invoke(self, *arguments: str, **variables: str) -> Ran:
        """Run a command to its end, and assert that it shows no password."""
        ran = self.monorepo.invoke(*arguments, env=self.production.variables | variables)
        assert_no_password_on_screen(ran)
        self.assert_no_password_written()
        return ran

    def migrate(self, *flags: str, **variables: str) -> Ran:
        """Run `prod.migrate --json` as a CI job would."""
        return self.invoke("prod.migrate", "--json", *YES, *flags, **variables)

    def start(self, *flags: str, **variables: str) -> "subprocess.Popen[str]":
        """Start `prod.migrate --json` as a CI job would; the workers are no children of it."""
        return self.monorepo.fork(
            "prod.migrate", "--json", *YES, *flags, env=self.production.variables | variables
        )

    def assert_no_password_written(self) -> None:
        """Assert that no record contains the password."""
        assert_no_password(*(path.read_text() for path in self.runs.glob("*")))

    def history(self) -> list[dict[str, Any]]:
        """Return the output of `prod.history --json`, the latest run first."""
        runs: list[dict[str, Any]] = self.invoke("prod.history", "--json").json["runs"]
        return runs

    def grow(self, *names: str, revisions: Sequence[str] = ("b2",), sql: str = "SELECT") -> None:
        """Add revisions to services, each of which makes its table and then runs a statement."""
        for name in names:
            for parent, revision in zip((START, *revisions), revisions, strict=False):
                self.revise(name, revision, parent, sql)

    def revise(self, name: str, revision: str, parent: str, *sql: str) -> Path:
        """Add one revision."""
        return self.monorepo.add_revision(
            name, revision, parent, f"CREATE TABLE made_by_{revision} ()", *sql
        )

    def at(self, name: str) -> str:
        """Return the revision of a database, and assert that its tables agree with it."""
        admin = self.production.admin(f"huleedu_{name}")
        ((current,),) = ask(admin, "SELECT version_num FROM alembic_version")
        made = {table.removeprefix("made_by_") for (table,) in ask(admin, MADE)}
        expected = {path.stem for path in self._files(name) if START < path.stem <= current}
        assert made == expected, (name, current, made)
        return str(current)

    def all_at(self) -> dict[str, str]:
        """Return the revision of each database."""
        return {name: self.at(name) for name in SERVICES}

    def comment(self, name: str) -> str:
        """Return a database's comment."""
        sql = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1"
        sql = sql.replace("$1", f"'huleedu_{name}'")
        ((comment,),) = ask(self.production.admin(), sql)
        return comment or ""

    def sessions(self, name: str, like: str) -> int:
        """Count the sessions on a database by the prefix of their application name."""
        ((count,),) = ask(
            admin_url(self.production.main, "postgres"),
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE datname = 'huleedu_{name}' AND application_name LIKE '{like}%'",
        )
        return int(count)

    def running(self, name: str, text: str) -> int:
        """Count the sessions on a database that run a statement with this string in it."""
        ((count,),) = ask(
            admin_url(self.production.main, "postgres"),
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
            f" AND datname = 'huleedu_{name}' AND query LIKE '%{text}%'"
            " AND pid <> pg_backend_pid()",
        )
        return int(count)

    def wind_back(self) -> None:
        """Restore files and databases, and delete the records."""
        for name in SERVICES:
            for path in self._files(name):
                if path.stem != START:
                    path.unlink()
        for path in self.runs.glob("*"):
            path.unlink()
        ask(
            admin_url(self.production.main, "postgres"),
            *(
                statement
                for name in SERVICES
                for statement in (
                    f"DROP DATABASE IF EXISTS huleedu_{name} WITH (FORCE)",
                    f"CREATE DATABASE huleedu_{name} TEMPLATE {BEGINNING} OWNER {USER}",
                    f"COMMENT ON DATABASE huleedu_{name} IS '{TAG}'",
                )
            ),
        )

    def _files(self, name: str) -> list[Path]:
        directory = self.monorepo.path(f"services/{name}_service/alembic/versions")
        return sorted(directory.glob("*.py"))


def told(ran: Ran, name: str) -> dict[str, Any]:
    """Return the object of a service in a JSON document."""
    (found,) = [row for row in ran.json["services"] if row["service"] == name]
    return dict(found)


@contextmanager
def new_rehearsal() -> Iterator[Rehearsal]:
    """Make a production of several services, with copies of its initial databases.

    At the end the password stands in no command line that was seen, and in no file.
    """
    canary = f"{PASSWORD}{CANARY}"
    watching = watched_command_lines(BETWEEN_LOOKS, forks=True)
    making = new_production(SERVICES, canary, has_standby=False)
    with making as production, watching as lines:
        ask(
            admin_url(production.main, "postgres"),
            f"CREATE DATABASE {BEGINNING} TEMPLATE huleedu_alpha",
        )
        yield Rehearsal(production)
        production.monorepo.path(".env").unlink()
        assert_no_password_in_files(production.monorepo.root)
    assert lines.any_has("fork_loop")
    assert not lines.any_has(CANARY)


@contextmanager
def locked(
    rehearsal: Rehearsal, name: str, seconds: float = 600, by: str = "SELECT FROM note"
) -> Iterator[None]:
    """Hold a lock in another session's open transaction; a reader's blocks every ALTER."""
    url = rehearsal.production.admin(f"huleedu_{name}")
    reading = ("BEGIN", by, f"SELECT pg_sleep({seconds})", "COMMIT")
    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(_until_ended, url, reading)
        wait_until(lambda: rehearsal.running(name, "pg_sleep"))
        try:
            yield
        finally:
            ask(
                admin_url(rehearsal.production.main, "postgres"),
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = 'huleedu_{name}' AND application_name = '{TEST}'",
            )
            holder.result()


def _until_ended(url: str, statements: Sequence[str]) -> None:
    with suppress(asyncpg.PostgresError):
        ask(url, *statements)
