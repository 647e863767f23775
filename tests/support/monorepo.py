"""Monorepos generated for a test, and the real command line in them.

Ports are free ones of this moment, never those of the developer's own servers; state lies in
memory where the machine has a memory file system.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from tests.support import fork_server

PROJECT = Path(__file__).resolve().parents[2]
MEMORY = Path("/dev/shm")
USER = "huleedu_user"
PASSWORD = "p@ss w%rd/1+2#3$4"
LIMIT = 180.0
# Below those of clients (`ip_local_port_range`), which could take one while its server is stopped.
PORTS = range(10_000, 32_768)
# Seconds between two looks.
SHORTEST_PAUSE = 0.01
LONGEST_PAUSE = 0.25

TASKS = "from huleedu_tasks.cli import namespace\n"

CONFIG = """\
import os
from urllib.parse import quote


def database_url() -> str:
    if url := os.environ.get("{variable}"):
        return url
    user = quote(os.environ["HULEEDU_DB_USER"], safe="")
    password = quote(os.environ["HULEEDU_DB_PASSWORD"], safe="")
    return f"postgresql+asyncpg://{{user}}:{{password}}@localhost:{port}/{database}"
"""

ALEMBIC_INI = """\
[alembic]
script_location = alembic
prepend_sys_path = .
path_separator = os
"""

ENV_PY = """\
import asyncio

from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from config import database_url


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def main():
    engine = create_async_engine(database_url(), poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


asyncio.run(main())
"""

REVISION = """\
\"\"\"{message}\"\"\"

from alembic import op

revision = {id!r}
down_revision = {parent!r}


def upgrade():
{upgrade}


def downgrade():
    pass
"""

SEED = """\
async def seed(connection):
    await connection.execute(
        "INSERT INTO note VALUES (1, 'first'), (2, 'second') ON CONFLICT DO NOTHING"
    )
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def statuses(self) -> dict[str, str]:
        return {row["service"]: row["status"] for row in self.json["services"]}


@dataclass
class Monorepo:
    """A monorepo in a directory, with its own environment variables."""

    root: Path
    state: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def services(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = json.loads(self.read("services.json"))["services"]
        return entries

    def port(self, name: str) -> int:
        return next(int(entry["port"]) for entry in self.services if entry["name"] == name)

    def path(self, relative: str) -> Path:
        return self.root / relative

    def read(self, relative: str) -> str:
        return self.path(relative).read_text(encoding="utf-8")

    def write(self, relative: str, text: str) -> Path:
        path = self.path(relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def register(self, *entries: Mapping[str, Any]) -> None:
        self.write("services.json", json.dumps({"services": list(entries)}, indent=2))

    def add_service(self, name: str, port: int, **stated: Any) -> None:
        """Add a small service with one table, one revision and one seed."""
        entries = self.services if self.path("services.json").exists() else []
        self.register(*entries, {"name": name, "port": port, **stated})
        directory = stated.get("directory", f"services/{name}_service")
        variable = f"{Path(directory).name.upper()}_DATABASE_URL"
        database = stated.get("database", f"huleedu_{name}")
        config = CONFIG.format(variable=variable, port=port, database=database)
        self.write(f"{directory}/config.py", config)
        self.write(f"{directory}/alembic.ini", ALEMBIC_INI)
        self.write(f"{directory}/alembic/env.py", ENV_PY)
        table = "CREATE TABLE note (id integer PRIMARY KEY, text text NOT NULL)"
        self.add_revision(name, "a1", None, table)
        self.write(f"database/seed-scripts/seed_{name}.py", SEED)

    def add_revision(self, name: str, revision: str, parent: str | None, *sql: str) -> Path:
        """Add a revision that runs SQL statements."""
        text = REVISION.format(
            message=f"Revision {revision}",
            id=revision,
            parent=parent,
            upgrade="\n".join(f"    op.execute({statement!r})" for statement in sql) or "    pass",
        )
        return self.write(f"services/{name}_service/alembic/versions/{revision}.py", text)

    def invoke(self, *arguments: str, **options: Any) -> Ran:
        """Run `invoke ARGUMENTS` to its end, in a process forked from one that has imported it.

        A fresh interpreter runs it where the test asks for something a fork cannot have, and
        everywhere with `--fresh-interpreters`.
        """
        environment = self._environment(options.get("env"))
        if not options.keys() <= {"cwd", "env"} or not fork_server.is_possible(environment):
            return self.invoke_afresh(*arguments, **options)
        return _ended(self.fork(*arguments, **options))

    def invoke_afresh(self, *arguments: str, **options: Any) -> Ran:
        """Run `invoke ARGUMENTS` to its end, in a new interpreter."""
        return _ended(self.start(*arguments, **options))

    def fork(
        self, *arguments: str, cwd: str = ".", env: Mapping[str, str] | None = None, **streams: Any
    ) -> "subprocess.Popen[str]":
        """Start `invoke ARGUMENTS` in a forked process, as `invoke` does.

        The processes that it asks for are no children of it.
        """
        environment = self._environment(env)
        if not fork_server.is_possible(environment):
            return self.start(*arguments, cwd=cwd, env=env, **streams)
        server = fork_server.fork_server()
        return server.start(arguments, self.root / cwd, environment, **streams)

    def start(
        self,
        *arguments: str,
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        account: Mapping[str, Any] | None = None,
        python: str = sys.executable,
        **options: Any,
    ) -> "subprocess.Popen[str]":
        """Start `invoke ARGUMENTS` as a user would, without a terminal; options are of `Popen`."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [python, "-m", "invoke", *arguments],
            cwd=self.root / cwd,
            env=self._environment(env),
            stdin=subprocess.DEVNULL,
            text=True,
            **(pipes | options | dict(account or {})),
        )

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {**clean_environment(), **self.environment, **(more or {})}

    def url(self, name: str, *, database: str = "", password: str = PASSWORD) -> str:
        """Return the URL of a service's database, for asyncpg."""
        database = database or f"huleedu_{name}"
        login = f"{USER}:{quote(password, safe='')}"
        return f"postgresql://{login}@localhost:{self.port(name)}/{database}"

    def data_directories(self) -> list[Path]:
        own, of_tests = (
            self.state.glob(f"{parent}embedded/postgresql-*/*/data") for parent in ("", "testing/")
        )
        return sorted([*own, *of_tests])

    def server_log(self, name: str) -> str:
        (path,) = self.state.glob(f"embedded/postgresql-*/{name}_db/server.log")
        return path.read_text(encoding="utf-8", errors="replace")

    def server_pid(self, name: str) -> int:
        (path,) = self.state.glob(f"embedded/postgresql-*/{name}_db/data/postmaster.pid")
        return int(path.read_text().splitlines()[0])

    def stop_servers(self) -> None:
        """Stop every server this monorepo started, by its own pid file."""
        for data in self.data_directories():
            stop_server(data)


def _ended(process: "subprocess.Popen[str]") -> Ran:
    """Wait for a command to end."""
    out, err = process.communicate(timeout=LIMIT)
    return Ran(process.returncode, out, err)


def stop_server(data: Path) -> None:
    """End the server of a data directory, if one runs."""
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    try:
        server = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        if str(data) in server.cmdline():
            server.send_signal(signal.SIGINT)
            wait_until(lambda: is_dead(server))
    except (psutil.Error, IndexError, ValueError):
        return


def is_dead(process: psutil.Process) -> bool:
    """Whether a process has ended, including a zombie."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def without_servers(running: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run and are no servers of PostgreSQL."""
    others = []
    for process in running:
        with suppress(psutil.NoSuchProcess):
            if process.name() != "postgres":
                others.append(process)
    return others


def clean_environment() -> dict[str, str]:
    """Return the environment of this process without variables that the tasks read."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HULEEDU_", "PG", "COMPOSE_", "DOCKER_"))
        and not name.endswith("DATABASE_URL")
    }


def free_ports(count: int) -> list[int]:
    """Return free ports, all different, and none that the system gives to a client."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = random.choice(PORTS)
            sock = stack.enter_context(socket.socket())
            with suppress(OSError):
                sock.bind(("127.0.0.1", port))
                found.append(port)
        return found


def scratch_directory(name: str) -> Path:
    """Return a new directory in memory, or in the usual place for temporary files."""
    import tempfile

    parent = MEMORY if os.access(MEMORY, os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix=f"huleedu-{name}-", dir=parent))
    # If root runs the tests, the servers belong to another user, who needs access.
    path.chmod(0o755)
    return path


@contextmanager
def new_monorepo(
    services: Sequence[str] = ("alpha", "beta", "gamma"), *, server: str = ""
) -> Iterator[Monorepo]:
    """Make a monorepo of small services; stop its servers and remove it at the end.

    Args:
        server: The compose service with the databases of all services; by default each has its own.
    """
    with empty_monorepo() as monorepo:
        count = len(services)
        ports = free_ports(1) * count if server else free_ports(count)
        stated = {"compose_service": server} if server else {}
        for name, port in zip(services, ports, strict=True):
            monorepo.add_service(name, port, **stated)
        yield monorepo


@contextmanager
def empty_monorepo(name: str = "repo") -> Iterator[Monorepo]:
    """Make a monorepo with a `.env` and no services, in a directory of a name."""
    with removed_at_end(scratch_directory("monorepo")) as directory:
        monorepo = monorepo_in(directory, name)
        monorepo.root.mkdir()
        monorepo.write("tasks.py", TASKS)
        monorepo.write(".env", f"HULEEDU_DB_USER={USER}\nHULEEDU_DB_PASSWORD='{PASSWORD}'\n")
        try:
            yield monorepo
        finally:
            monorepo.stop_servers()


def monorepo_in(directory: Path, name: str = "repo") -> Monorepo:
    """Return the monorepo in a directory, which has its state beside it."""
    state = directory / "state"
    environment = {"HULEEDU_STATE_DIR": str(state), "HULEEDU_PROVIDER": "embedded"}
    return Monorepo(root=directory / name, state=state, environment=environment)


@contextmanager
def removed_at_end(directory: Path) -> Iterator[Path]:
    """Remove a directory at the end of a `with` block."""
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def copy_of_this_monorepo() -> Iterator[Monorepo]:
    """Copy this repository's own services and seeds, on other ports."""
    with empty_monorepo() as monorepo:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        for directory in ("services", "database"):
            shutil.copytree(PROJECT / directory, monorepo.root / directory, ignore=ignored)
        entries = json.loads((PROJECT / "services.json").read_text())["services"]
        for entry, port in zip(entries, free_ports(len(entries)), strict=True):
            entry["port"] = port
        monorepo.register(*entries)
        yield monorepo


def wait_until(condition: Any, *, seconds: float = LIMIT) -> None:
    """Poll until a condition is true; the longer it takes to find out, the less often.

    Raises:
        AssertionError: If it does not become true in time.
    """
    deadline = time.monotonic() + seconds
    begun = time.monotonic()
    while not condition():
        now = time.monotonic()
        assert now < deadline, f"not true within {seconds} s"
        time.sleep(min(max(SHORTEST_PAUSE, 8 * (now - begun)), LONGEST_PAUSE))
        begun = time.monotonic()
