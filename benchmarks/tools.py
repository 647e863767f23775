"""Other tools, which are installed for the run, and their commands for many databases.

They are installed below TMPDIR and kept there for the next run; they are no dependency of ours.
"""

import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from subprocess import CalledProcessError
from subprocess import run as run_quietly

from benchmarks.bench import Bench
from benchmarks.children import PROGRAMS, BenchmarkError, run

# The databases of both sides are on the same servers, and the revisions need the same libraries.
LIBRARIES = ("alembic", "sqlalchemy", "asyncpg", "greenlet", "psycopg2-binary", "pytest")
PYTHON_TOOLS = ("DSLR", "pytest-postgresql", "pytest-alembic", "pytest-xdist", "psycopg[binary]")
# The package of Liquibase contains the driver for PostgreSQL.
NODE_TOOLS = {"dbmate": "2.36.0", "liquibase": "4.28.1"}
SHOWN = ("dslr", "pytest-postgresql", "pytest-alembic")
NEEDED = {"npm": "installs dbmate and Liquibase", "java": "runs Liquibase"}
INSTALLED = "installed.json"
# One process of Alembic for each database, or two at the same time.
AT_ONCE = {"a loop": 1, "`xargs -P2`": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that migrates one database with each process.

    Its commands are run by bash in the directory of a service, `$1` being the database.

    Attributes:
        name: What it is called.
        status: Shows which revision a database has.
        upgrade: Brings a database to head.
    """

    name: str
    status: str
    upgrade: str


ALEMBIC = Tool(name="Alembic", status="alembic current", upgrade="alembic upgrade head")
DBMATE = Tool(
    name="dbmate",
    status="dbmate status",
    upgrade="dbmate up",
)
LIQUIBASE = Tool(
    name="Liquibase",
    status='liquibase --url="$JDBC_URL/$1" status',
    upgrade='liquibase --url="$JDBC_URL/$1" update',
)
TOOLS = (ALEMBIC, DBMATE, LIQUIBASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Where the other tools are installed."""

    directory: Path

    @property
    def programs(self) -> Path:
        """The directory of the programs that are written in Python."""
        return self.directory / "python/bin"

    @property
    def path(self) -> str:
        """PATH with all of them, Alembic being that of this environment."""
        own = (PROGRAMS, self.directory / "node_modules/.bin", self._liquibase)
        return os.pathsep.join([*map(str, own), os.environ["PATH"]])

    @property
    def _liquibase(self) -> Path:
        return self.directory / "node_modules/liquibase/dist/liquibase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How the tools connect: one server, one user."""

    port: int
    user: str
    password: str

    def environment(self, tools: Tools) -> dict[str, str]:
        """Return the variables for the commands of the tools."""
        return {
            "PATH": tools.path,
            "PGPASSWORD": self.password,
            "SERVER_URL": f"{self.user}@localhost:{self.port}",
            "JDBC_URL": f"jdbc:postgresql://localhost:{self.port}",
            "DBMATE_MIGRATIONS_DIR": "dbmate",
            "DBMATE_NO_DUMP_SCHEMA": "true",
            "LIQUIBASE_COMMAND_USERNAME": self.user,
            "LIQUIBASE_COMMAND_PASSWORD": self.password,
            "LIQUIBASE_COMMAND_CHANGELOG_FILE": "changelog.sql",
            "LIQUIBASE_SHOW_BANNER": "false",
        }


def run_for_each(
    command: str,
    databases: Mapping[str, str],
    *,
    at_once: int = 1,
    cwd: Path,
    environment: Mapping[str, str],
) -> None:
    """Run a command of a tool for each database.

    Args:
        databases: The name of each database, by the directory of its service.
        at_once: How many processes run at the same time.
    """
    script = (
        'cd "$0"; export DATABASE_URL="postgres://$SERVER_URL/$1?sslmode=disable"; exec ' + command
    )
    run(
        ["xargs", f"-P{at_once}", "-n2", "bash", "-ec", script],
        cwd=cwd,
        environment=environment,
        stdin="".join(f"{directory} {name}\n" for directory, name in databases.items()),
    )


def plain(command: str) -> str:
    """Return a command as a user would type it."""
    return command.replace(' --url="$JDBC_URL/$1"', "")


def why_no_peers(bench: Bench) -> str:
    """Return why the other tools could not be installed; an empty string if they are."""
    for program, purpose in NEEDED.items():
        if not shutil.which(program):
            return f"there is no `{program}` on PATH, which {purpose}"
    try:
        installed_tools(bench)
    except (CalledProcessError, OSError, BenchmarkError) as error:
        return f"the other tools could not be installed: {error}"
    return ""


def installed_tools(bench: Bench) -> Tools:
    """Return the other tools, which are installed if an earlier run did not."""
    directory = Path(tempfile.gettempdir()) / f"huleedu-benchmark-tools-{os.getuid()}"
    wanted = [
        *(f"{name}=={version(name)}" for name in LIBRARIES),
        *PYTHON_TOOLS,
        *(f"{name}@{number}" for name, number in NODE_TOOLS.items()),
    ]
    _make_private(directory)
    if _installed(directory) != wanted:
        bench.say("installing other tools ...")
        shutil.rmtree(directory)
        _make_private(directory)
        _install(directory, wanted)
        (directory / INSTALLED).write_text(json.dumps(wanted), encoding="utf-8")
    bench.facts.update(_versions(directory))
    return Tools(directory=directory)


def _make_private(directory: Path) -> None:
    """Create a directory that only this user can write to.

    Raises:
        BenchmarkError: If the one that is there belongs to another user.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise BenchmarkError(f"{directory} belongs to another user")


def _installed(directory: Path) -> list[str]:
    """Return what an earlier run installed; an empty list if it did not finish."""
    try:
        installed: list[str] = json.loads((directory / INSTALLED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return installed


def _install(directory: Path, wanted: Iterable[str]) -> None:
    from_npm = [name for name in wanted if name.partition("@")[0] in NODE_TOOLS]
    from_pip = [name for name in wanted if name not in from_npm]
    environment = directory / "python"
    run_quietly([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet"]
    run_quietly([*pip, *from_pip], check=True)
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory)]
    run_quietly([*npm, *from_npm], check=True, stdout=sys.stderr)


def _versions(directory: Path) -> dict[str, str]:
    """Return the version of each tool, by its name."""
    (packages,) = directory.glob("python/lib/python*/site-packages")
    found = {}
    for name in SHOWN:
        (metadata,) = packages.glob(f"{name.replace('-', '_')}-*.dist-info")
        found[name] = metadata.name.removesuffix(".dist-info").rpartition("-")[2]
    return {**found, **NODE_TOOLS}
