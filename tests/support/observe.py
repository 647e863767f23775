"""Observe the databases, processes and files of a monorepo from outside."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psutil

from tests.support.fork_server import fresh_interpreters
from tests.support.monorepo import PASSWORD, Monorepo, Ran
from tests.support.postgres import ask, connect

# As it is, in a URL, and as a form or a Python literal would have it.
PRINTED = {PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), quote_plus(PASSWORD)}
NOTES = "SELECT string_agg(text, ' ' ORDER BY id) FROM note"
BETWEEN_LOOKS = 0.01
# A process has its own command line as soon as it has executed its program.
ENOUGH_LOOKS = 20
WORKER = "child/worker.py"
# Forks such workers.
FORK_LOOP = "child/fork_loop.py"


@dataclass(frozen=True)
class Database:
    """The content of one database; a recreated database has another number."""

    number: int
    comment: str
    revision: str
    notes: str


def database(monorepo: Monorepo, name: str) -> Database:
    """Read a service's database."""
    sql = (
        "SELECT oid::bigint, shobj_description(oid, 'pg_database'),"
        " (SELECT version_num FROM alembic_version), (" + NOTES + ")"
        " FROM pg_database WHERE datname = current_database()"
    )
    (row,) = ask(monorepo.url(name), sql)
    return Database(*row)


def notes(monorepo: Monorepo, name: str) -> str:
    """Return the rows of the table that revisions create and seeds fill."""
    ((found,),) = ask(monorepo.url(name), NOTES)
    return found or ""


def forking_processes(monorepo: Monorepo) -> list[int]:
    """Return the fork server of this monorepo's runs, and its workers."""
    return [
        found.pid
        for found in psutil.process_iter(["cmdline"])
        if any(FORK_LOOP in part for part in found.info["cmdline"] or ())
        and found.environ().get("HULEEDU_STATE_DIR") == str(monorepo.state)
    ]


def statements(monorepo: Monorepo, name: str, text: str) -> int:
    """Count the sessions of a service's server that run a statement with this string in it."""
    url = monorepo.url(name, database="postgres")
    running = ask(
        url,
        "SELECT query FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()",
    )
    return sum(text in query for (query,) in running)


def processes(monorepo: Monorepo) -> set[int]:
    """Return the processes that belong to a monorepo, its servers among them."""
    tags = (str(monorepo.root), str(monorepo.state))
    return {
        found.pid
        for found in psutil.process_iter(["cmdline"])
        if any(tag in part for part in found.info["cmdline"] or () for tag in tags)
    }


def files(directory: Path) -> dict[str, bytes]:
    """Return every file of a directory with its content."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@dataclass
class CommandLines:
    """The command lines observed on this machine."""

    seen: set[str] = field(default_factory=set)

    def any_has(self, text: str) -> bool:
        """Whether a string was in one of them."""
        return any(text in line for line in self.seen)


@contextmanager
def watched_command_lines(
    between: float = BETWEEN_LOOKS, *, forks: bool = False
) -> Iterator[CommandLines]:
    """Poll `/proc/*/cmdline` until the block ends.

    Args:
        between: Seconds between two looks.
        forks: Whether our own commands may be forked, which have no command line of their own.
    """
    lines = CommandLines()
    over = threading.Event()

    def look() -> None:
        looks: dict[str, int] = {}
        seen: set[bytes] = set()
        is_over = False
        while not is_over:
            is_over = over.wait(between)
            names = filter(str.isdigit, os.listdir("/proc"))  # noqa: PTH208  # Often.
            looks = {name: looks.get(name, 0) + 1 for name in names}
            for name, count in looks.items():
                # Later less often: a process may still execute another program.
                if count <= ENOUGH_LOOKS or count % ENOUGH_LOOKS == 0:
                    with suppress(OSError), open(f"/proc/{name}/cmdline", "rb", 0) as file:  # noqa: PTH123
                        seen.add(file.read())
        lines.seen |= {line.replace(b"\0", b" ").decode(errors="replace") for line in seen}

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with nullcontext() if forks else fresh_interpreters():
            yield lines
    finally:
        over.set()
        watcher.join()


def assert_no_password(*texts: str) -> None:
    """Assert that the password is in none of these, in any form."""
    assert not [form for form in PRINTED for text in texts if form in text]


def assert_no_password_on_screen(ran: Ran) -> None:
    """Assert that a command did not print the password."""
    assert_no_password(ran.out, ran.err)


def assert_no_password_in_files(directory: Path) -> None:
    """Assert that no file contains the password, data directories included."""
    holders = [
        path
        for path, content in files(directory).items()
        if any(form.encode() in content for form in PRINTED)
    ]
    assert not holders


def log_in(url: str, sql: str) -> Any:
    """Log in with a URL as SQLAlchemy writes it."""

    async def run() -> Any:
        opened = await connect(url.replace("+asyncpg", ""))
        try:
            return await opened.fetchval(sql)
        finally:
            await opened.close()

    return asyncio.run(run())
