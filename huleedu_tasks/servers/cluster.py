"""One embedded PostgreSQL server: its data directory, and the process that serves it.

`postgres` is started directly. `pg_ctl` would poll each 100 ms for what `postmaster.pid` tells
at once: its first line is the process, its fourth the port, its eighth `ready` once connections
are accepted (PostgreSQL, `miscadmin.h`, LOCK_FILE_LINE_*).
"""

import asyncio
import os
import shutil
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks import process
from huleedu_tasks.config.secret import Redactor, Secret
from huleedu_tasks.errors import ServerError
from huleedu_tasks.ports import holder
from huleedu_tasks.postgres.binaries import Binaries
from huleedu_tasks.postgres.databases import ServerIdentity, literal, quoted
from huleedu_tasks.process import Account
from huleedu_tasks.state_dir import open_private, unwritable

if TYPE_CHECKING:
    import subprocess

    import psutil

ADDRESS = "127.0.0.1"
INITDB_TIMEOUT = 120.0
STOP_TIMEOUT = 20.0
LOG_LIMIT = 10 * 2**20
LOG_TAIL_LINES = 15
POLL_INTERVAL = 0.005
_READY_LINE = 8
_PORT_LINE = 4
# A killed postmaster's last backends hold its shared memory for a moment.
_STILL_DYING = "pre-existing shared memory block"
# A statement goes on for as long as it likes after its client was ended, unless the server looks.
_NOTICES_LOST_CLIENTS = (
    # Elsewhere PostgreSQL 14 does not start with it.
    {"client_connection_check_interval": "500ms"} if sys.platform == "linux" else {}
)
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A data directory and how it is served.

    Attributes:
        data: The data directory.
        log: Where the server writes its log.
        account: The user the server runs as, or None for our own.
        durable: Whether it flushes to disk; without, only a crash of the whole machine harms.
    """

    binaries: Binaries
    data: Path
    log: Path
    port: int
    account: Account | None
    durable: bool

    @property
    def exists(self) -> bool:
        """Whether the data directory is complete."""
        return (self.data / "PG_VERSION").is_file()

    def identity(self) -> ServerIdentity | None:
        """Read which server this is from its files, or None if they cannot be read.

        `global/pg_control` begins with the system identifier (PostgreSQL, `pg_control.h`).
        """
        try:
            (number,) = struct.unpack("=Q", _read(self.data / "global/pg_control", 8))
        except (OSError, struct.error):
            return None
        return ServerIdentity(system_identifier=number, data_directory=str(self.data))

    def server(self) -> "psutil.Process | None":
        """Return the running server's process, or None.

        A process that merely has the number an old server had is not it: its command line must
        name the data directory. A zombie is dead.
        """
        import psutil

        pid = self._pid()
        if pid is None:
            return self._unnamed_server()
        try:
            found = psutil.Process(pid)
            alive = found.status() != psutil.STATUS_ZOMBIE
            return found if alive and str(self.data) in found.cmdline() else None
        except (psutil.Error, OverflowError):
            return None

    def _unnamed_server(self) -> "psutil.Process | None":
        """Return the server that runs although its pid file is damaged; None if none does."""
        import psutil

        if not self._pid_path.is_symlink() and not self._pid_path.exists():
            return None
        for found in psutil.process_iter():
            try:
                words = found.cmdline()
                if "-D" in words and str(self.data) in words and found.is_running():
                    return found
            except psutil.Error:
                continue
        return None

    @property
    def serves_its_port(self) -> bool:
        """Whether the server runs, is ready, and listens where it should."""
        return (
            self._pid_file_line(_PORT_LINE) == str(self.port)
            and self._pid_file_line(_READY_LINE) == "ready"
            and self.server() is not None
        )

    async def start(self, timeout: float) -> None:
        """Start the server and return when it accepts connections.

        Args:
            timeout: Seconds it may take.

        Raises:
            ServerError: With the log's last lines, or the process that has the port.
        """
        try:
            self._heal_pid_file()
        except OSError as error:
            raise unwritable(self._pid_path, error) from error
        _limit(self.log)
        deadline = time.monotonic() + timeout
        while True:
            offset = self.log.stat().st_size if self.log.exists() else 0
            child = self._spawn()
            if await self._becomes_ready(child, deadline):
                return
            said = _tail(self.log, offset)
            if child.poll() is None:
                child.kill()
                child.wait()
                raise ServerError(
                    f"The server on port {self.port} was not ready after {timeout:g} s.",
                    code="server-not-ready",
                    output=said,
                    hint=f"Read {self.log}; HULEEDU_START_TIMEOUT allows more time.",
                )
            if _STILL_DYING not in said or time.monotonic() > deadline:
                raise self._start_error(said)
            await asyncio.sleep(POLL_INTERVAL)

    async def stop(self) -> bool:
        """Stop the server, rolling back what is open; return whether one ran.

        Raises:
            ServerError: If it does not end in time.
        """
        import signal

        server = self.server()
        if server is None:
            return False
        for number in (signal.SIGINT, signal.SIGQUIT):
            server.send_signal(number)
            if await _ends(server, STOP_TIMEOUT):
                return True
        raise ServerError(
            f"The server on port {self.port} (pid {server.pid}) does not stop.",
            code="server-not-stopped",
            hint=f"Read {self.log}, and end the process by hand.",
        )

    async def set_login(self, user: str, password: Secret) -> None:
        """Make a superuser log in with this password, while no server runs.

        Single-user mode needs no password to let us in, and reads the new one from its standard
        input, where nobody else can see it.

        Raises:
            ServerError: If PostgreSQL does not accept it.
        """
        role, text = quoted(user), literal(password.reveal())
        create = (
            f"DO $$BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END$$\n"
        )
        alter = f"ALTER ROLE {role} WITH LOGIN SUPERUSER PASSWORD {text}\n"
        done = await process.run(
            [self.binaries.program("postgres"), "--single", "-D", self.data, "postgres"],
            cwd=self.data,
            environment=_server_environment(),
            timeout=INITDB_TIMEOUT,
            stdin=create + alter,
            account=self.account,
        )
        # Single-user mode goes on after an error, and ends with status 0.
        if done.returncode != 0 or "ERROR:" in done.output:
            raise ServerError(
                f"The login of {user!r} could not be set in {self.data}.",
                code="initdb-failed",
                output=Redactor([password])(done.output),
            )

    async def create(self, user: str) -> None:
        """Make a new data directory with initdb; only complete directories get their name.

        Args:
            user: The name of its superuser, who cannot log in until `set_login`.

        Raises:
            ServerError: With what initdb said.
        """
        partial = _fresh_partial(self.data)
        try:
            _give(partial, self.account)
            done = await process.run(
                [
                    self.binaries.program("initdb"),
                    f"--pgdata={partial}",
                    f"--username={user}",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "--auth=trust",
                    # Each server's data is a copy of it, and most of that is the log of changes.
                    "--wal-segsize=1",
                    "--no-sync",
                    "--no-instructions",
                ],
                cwd=partial.parent,
                environment=_server_environment(),
                timeout=INITDB_TIMEOUT,
                account=self.account,
            )
            if done.returncode != 0:
                raise ServerError(
                    f"initdb could not make {self.data}.",
                    code="initdb-failed",
                    output=done.output,
                    hint="Its own words above name the cause; a full disk is the usual one.",
                )
            _only_passwords(partial / "pg_hba.conf")
            partial.rename(self.data)
        except OSError as error:
            raise unwritable(self.data, error) from error

    async def remove(self) -> None:
        """Remove the data directory of a stopped server; only a whole one keeps its name.

        Raises:
            ServerError: If it cannot be removed.
        """
        removed = self.data.with_name(f"{self.data.name}.removed")
        try:
            if self.data.exists():
                self.data.rename(removed)
            await asyncio.to_thread(shutil.rmtree, removed, ignore_errors=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise unwritable(self.data, error) from error

    async def copy_from(self, template: "Cluster") -> None:
        """Make the data directory a copy of a stopped cluster's, owners and modes kept.

        Raises:
            ServerError: If it cannot be written.
        """
        try:
            partial = _fresh_partial(self.data)
            partial.rmdir()
        except OSError as error:
            raise unwritable(self.data, error) from error
        done = await process.run(
            ["cp", "-a", template.data, partial],
            cwd=partial.parent,
            environment=_server_environment(),
            timeout=INITDB_TIMEOUT,
        )
        if done.returncode != 0:
            raise ServerError(
                f"The data directory {self.data} could not be made.",
                code="initdb-failed",
                output=done.output,
                hint="Free space on the disk, or set HULEEDU_STATE_DIR to one on another disk.",
            )
        partial.rename(self.data)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        settings = {
            "listen_addresses": ADDRESS,
            "port": str(self.port),
            # A socket's path may have 107 bytes; nobody needs one here.
            "unix_socket_directories": "",
            "logging_collector": "off",
            **_NOTICES_LOST_CLIENTS,
            **({} if self.durable else _NOT_DURABLE),
        }
        options = [text for key, value in settings.items() for text in ("-c", f"{key}={value}")]
        try:
            return process.spawn_server(
                [self.binaries.program("postgres"), "-D", self.data, *options],
                cwd=self.data,
                environment=_server_environment(),
                log=self.log,
                account=self.account,
            )
        except OSError as error:
            raise unwritable(self.data, error) from error

    async def _becomes_ready(self, child: "subprocess.Popen[bytes]", deadline: float) -> bool:
        while child.poll() is None and time.monotonic() < deadline:
            own = self._pid() == child.pid
            if own and self._pid_file_line(_READY_LINE) == "ready":
                return True
            await asyncio.sleep(POLL_INTERVAL)
        return False

    def _start_error(self, said: str) -> ServerError:
        if "Address already in use" in said:
            return ServerError(
                f"Port {self.port} is taken by {holder(self.port)}.",
                code="port-in-use",
                hint="Stop it (`invoke db.down` in another checkout stops its servers), or give "
                "the service another 'port' in the registry (or in the compose file, if the "
                "registry states none) and in its config.py.",
            )
        return ServerError(
            f"The server on port {self.port} did not start.",
            code="server-not-started",
            output=said,
            hint=f"Its log is {self.log}. If the data is damaged, remove {self.data} and run "
            "`invoke db.reset`.",
        )

    def _heal_pid_file(self) -> None:
        """Have PostgreSQL see that its pid file names no server that runs.

        What no server has written is removed: a machine that went down may have left anything,
        and PostgreSQL would not start.

        A zombie, and a stranger with the server's old number, are alive to it. It knows that the
        number of its own parent, which we are, is no server's. The file stays: the rest of it
        tells PostgreSQL whether old backends still use the directory.
        """
        if self.server() is not None:
            return
        if self._pid() is None:
            _remove(self._pid_path)
            return
        _, *rest = _read(self._pid_path).splitlines(keepends=True)
        _overwrite(self._pid_path, b"".join([b"%d\n" % os.getpid(), *rest]))

    @property
    def _pid_path(self) -> Path:
        return self.data / "postmaster.pid"

    def _pid(self) -> int | None:
        text = self._pid_file_line(1)
        return int(text) if text.isdecimal() else None

    def _pid_file_line(self, number: int) -> str:
        try:
            lines = _read(self._pid_path).decode("latin-1").splitlines()
        except OSError:
            return ""
        return lines[number - 1].strip() if len(lines) >= number else ""


def _server_environment() -> dict[str, str]:
    # Whatever PG* variables the developer has set are meant for clients.
    kept = ("PATH", "HOME", "TZ", "LD_LIBRARY_PATH")
    return {"LC_ALL": "C.UTF-8", **{name: os.environ[name] for name in kept if name in os.environ}}


def _fresh_partial(data: Path) -> Path:
    """Return an empty directory beside a data directory, to be renamed to it once complete."""
    partial = data.with_name(f"{data.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, mode=0o700)
    return partial


def _give(path: Path, account: Account | None) -> None:
    if account:
        os.chown(path, account.uid, account.gid)


def _only_passwords(hba: Path) -> None:
    _overwrite(
        hba,
        b"# Everybody logs in with a password, over TCP, from this machine.\n"
        b"host all all 127.0.0.1/32 scram-sha-256\n"
        b"host all all ::1/128 scram-sha-256\n",
    )


# Files in a directory of the server's account, which could have put a link there.


def _read(path: Path, size: int = -1) -> bytes:
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        return file.read(size)


def _overwrite(path: Path, content: bytes) -> None:
    """Replace what is in a file, which keeps its owner."""
    with os.fdopen(open_private(path, os.O_WRONLY), "wb") as file:
        file.truncate()
        file.write(content)


def _remove(path: Path) -> None:
    """Remove whatever has a name; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _limit(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.old"))


def _tail(log: Path, offset: int) -> str:
    with os.fdopen(open_private(log, os.O_RDONLY), "rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])


async def _ends(server: "psutil.Process", timeout: float) -> bool:
    import psutil

    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if not server.is_running() or server.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        await asyncio.sleep(POLL_INTERVAL)
    return False
