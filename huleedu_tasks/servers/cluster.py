"""One embedded PostgreSQL server: its data directory and its process.

`postgres` is started directly, since `pg_ctl` polls `postmaster.pid` only every 100 ms. The file's
first line is the pid, its fourth the port, its eighth `ready` as soon as the server accepts
connections (PostgreSQL, `miscadmin.h`, LOCK_FILE_LINE_*).
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
PORT_IN_USE = "port-in-use"
INITDB_TIMEOUT = 120.0
STOP_TIMEOUT = 20.0
LOG_LIMIT = 10 * 2**20
LOG_TAIL_LINES = 15
POLL_INTERVAL = 0.005
_READY_LINE = 8
_PORT_LINE = 4
# The last backends of a killed postmaster have its shared memory open for a moment.
_BACKENDS_REMAIN = "pre-existing shared memory block"
# Without it, a statement runs to its end although its client is gone.
_CONNECTION_CHECK = (
    # On other systems PostgreSQL 14 does not start with it.
    {"client_connection_check_interval": "500ms"} if sys.platform == "linux" else {}
)
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A data directory and the parameters of its server.

    Attributes:
        data: The data directory.
        log: The path of the server's log file.
        account: The user that the server runs as; None for the current one.
        durable: Whether it flushes to disk; if not, a crash of the whole machine may corrupt data.
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
        """Read the server's identity from its data directory; None if it cannot be read.

        `global/pg_control` begins with the system identifier (PostgreSQL, `pg_control.h`).
        """
        try:
            (number,) = struct.unpack("=Q", _read(self.data / "global/pg_control", 8))
        except (OSError, struct.error):
            return None
        return ServerIdentity(system_identifier=number, data_directory=str(self.data))

    def server(self) -> "psutil.Process | None":
        """Return the running server's process; None if it does not run."""
        return server_of(self.data)

    @property
    def serves_its_port(self) -> bool:
        """Whether the server runs, is ready, and listens on its port."""
        return self._pid_file_line(_READY_LINE) == "ready" and self.has_its_port

    @property
    def has_its_port(self) -> bool:
        """Whether the server runs, possibly not ready yet, and its port is this one."""
        return self._pid_file_line(_PORT_LINE) == str(self.port) and self.server() is not None

    async def start(self, timeout: float) -> None:
        """Start the server and return when it accepts connections.

        Args:
            timeout: Seconds it may take.

        Raises:
            ServerError: With the log's last lines, or the process that listens on its port.
        """
        try:
            self._repair_pid_file()
        except OSError as error:
            raise unwritable(self._pid_path, error) from error
        _rotate(self.log)
        deadline = time.monotonic() + timeout
        while True:
            offset = self.log.stat().st_size if self.log.exists() else 0
            child = self._spawn()
            if await self._becomes_ready(child, deadline):
                return
            output = _tail(self.log, offset)
            if child.poll() is None:
                child.kill()
                child.wait()
                raise ServerError(
                    f"The server on port {self.port} was not ready after {timeout:g} s.",
                    code="server-not-ready",
                    output=output,
                    hint=f"Read {self.log}, or set HULEEDU_START_TIMEOUT to allow more time.",
                )
            if _BACKENDS_REMAIN not in output or time.monotonic() > deadline:
                raise self._start_error(output)
            await asyncio.sleep(POLL_INTERVAL)

    async def stop(self) -> bool:
        """Stop the server, which rolls back open transactions; return whether it ran.

        Raises:
            ServerError: If it does not stop in time.
        """
        return await stop_server(self.data, self.log)

    async def set_login(self, user: str, password: Secret) -> None:
        """Create a superuser if it is missing, and set its password, while no server runs.

        Single-user mode needs no login. It reads the password from its standard input, which other
        users cannot see.

        Raises:
            ServerError: If PostgreSQL reports an error.
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
        # Single-user mode continues after an error, and exits with status 0.
        if done.returncode != 0 or "ERROR:" in done.output:
            raise ServerError(
                f"The login of {user!r} could not be set in {self.data}.",
                code="initdb-failed",
                hint="Correct the cause in its output, or run `invoke db.reset --volumes`.",
                output=Redactor([password])(done.output),
            )

    async def create(self, user: str) -> None:
        """Create the data directory with initdb, under another name until it is complete.

        Args:
            user: The name of its superuser, who cannot log in until `set_login`.

        Raises:
            ServerError: With the output of initdb, or if the directory cannot be written.
        """
        partial = _fresh_partial(self.data)
        try:
            _change_owner(partial, self.account)
            done = await process.run(
                [
                    self.binaries.program("initdb"),
                    f"--pgdata={partial}",
                    f"--username={user}",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "--auth=trust",
                    # Each server's data is a copy of it, and WAL is the largest part.
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
                    f"initdb failed to create {self.data}.",
                    code="initdb-failed",
                    output=done.output,
                    hint="Correct the cause in its output; if the disk is full, free space.",
                )
            _require_passwords(partial / "pg_hba.conf")
            partial.rename(self.data)
        except OSError as error:
            raise unwritable(self.data, error) from error

    async def remove(self) -> None:
        """Remove the data directory of a stopped server, renaming it first.

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
        """Create the data directory as a copy of a stopped cluster's, with its owners and modes.

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
                f"The data directory {self.data} could not be created.",
                code="initdb-failed",
                output=done.output,
                hint="Free space on the disk, or move HULEEDU_STATE_DIR to another disk.",
            )
        partial.rename(self.data)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        settings = {
            "listen_addresses": ADDRESS,
            "port": str(self.port),
            # No Unix socket: its path may have at most 107 bytes.
            "unix_socket_directories": "",
            "logging_collector": "off",
            **_CONNECTION_CHECK,
            **({} if self.durable else _NOT_DURABLE),
        }
        options = [option for key, value in settings.items() for option in ("-c", f"{key}={value}")]
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
            is_own = self._pid() == child.pid
            if is_own and self._pid_file_line(_READY_LINE) == "ready":
                return True
            await asyncio.sleep(POLL_INTERVAL)
        return False

    def _start_error(self, output: str) -> ServerError:
        if "Address already in use" in output:
            return ServerError(
                f"Port {self.port} is taken by {holder(self.port)}.",
                code=PORT_IN_USE,
                hint="Stop it (`invoke db.down` in another checkout stops its servers), or state "
                "another 'port' for the service in the registry (in the compose file, if the "
                "registry states none) and in its config.py.",
            )
        return ServerError(
            f"The server on port {self.port} did not start.",
            code="server-not-started",
            output=output,
            hint=f"Read its log, {self.log}. If the data is damaged, remove {self.data} and run "
            "`invoke db.reset`.",
        )

    def _repair_pid_file(self) -> None:
        """Make PostgreSQL ignore a pid file that names no running server.

        A file without a pid, as a crash of the machine leaves it, is removed.

        PostgreSQL takes a zombie, or another process with the old pid, for a running server, but
        not its own parent. So this process writes its own pid to the file. The other lines stay:
        they tell PostgreSQL whether old backends still use the directory.
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
        return _pid_path(self.data)

    def _pid(self) -> int | None:
        return _pid(self.data)

    def _pid_file_line(self, number: int) -> str:
        return _pid_file_line(self.data, number)


def server_of(data: Path) -> "psutil.Process | None":
    """Return the process of the server that runs on a data directory; None if none does.

    Another process may have the pid of an old server, so the command line must name the data
    directory. A zombie does not count as running.
    """
    import psutil

    pid = _pid(data)
    if pid is None:
        return _find_server(data)
    try:
        found = psutil.Process(pid)
        alive = found.status() != psutil.STATUS_ZOMBIE
        return found if alive and str(data) in found.cmdline() else None
    except (psutil.Error, OverflowError):
        return None


def unproven_server(data: Path) -> int | None:
    """Return the pid of a process that may be the server of a data directory; None if none may be.

    That is the case for a `postgres` with the pid of the directory's pid file, whose command line
    does not name the directory, for example because the directory was moved. The working directory
    of a server is its data directory: another one proves that it is the server of another.
    """
    import psutil

    pid = _pid(data)
    if pid is None or server_of(data):
        return None
    try:
        found = psutil.Process(pid)
        if found.status() == psutil.STATUS_ZOMBIE or not found.name().startswith("postgres"):
            return None
        return pid if Path(found.cwd()) == data.resolve() else None
    except psutil.AccessDenied:
        return pid
    except (psutil.Error, OverflowError):
        return None


async def stop_server(data: Path, log: Path) -> bool:
    """Stop the server that runs on a data directory; return whether one did.

    Args:
        data: The data directory.
        log: The path of the server's log file, for the error.

    Raises:
        ServerError: If it does not stop in time, or this user may not stop it.
    """
    import signal

    import psutil

    server = server_of(data)
    if server is None:
        return False
    port = _pid_file_line(data, _PORT_LINE)
    try:
        for shutdown in (signal.SIGINT, signal.SIGQUIT):
            server.send_signal(shutdown)
            if await _ends(server, STOP_TIMEOUT):
                return True
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied as error:
        raise ServerError(
            f"The server on port {port} (pid {server.pid}) belongs to another user.",
            code="server-not-stopped",
            hint="Run the same command as the user who started it.",
        ) from error
    raise ServerError(
        f"The server on port {port} (pid {server.pid}) did not stop.",
        code="server-not-stopped",
        hint=f"Read {log}, then end the process: `kill -KILL {server.pid}`.",
    )


def _find_server(data: Path) -> "psutil.Process | None":
    """Find a running server whose pid file is damaged; None if there is no such server."""
    import psutil

    if not _pid_path(data).is_symlink() and not _pid_path(data).exists():
        return None
    for candidate in psutil.process_iter():
        try:
            arguments = candidate.cmdline()
            names_data = "-D" in arguments and str(data) in arguments
            if names_data and candidate.is_running():
                return candidate
        except psutil.Error:
            continue
    return None


def _pid_path(data: Path) -> Path:
    return data / "postmaster.pid"


def _pid(data: Path) -> int | None:
    first = _pid_file_line(data, 1)
    return int(first) if first.isdecimal() else None


def _pid_file_line(data: Path, number: int) -> str:
    try:
        lines = _read(_pid_path(data)).decode("latin-1").splitlines()
    except OSError:
        return ""
    return lines[number - 1].strip() if len(lines) >= number else ""


def _server_environment() -> dict[str, str]:
    # Without the developer's PG* variables, which are meant for clients.
    kept = ("PATH", "HOME", "TZ", "LD_LIBRARY_PATH")
    return {"LC_ALL": "C.UTF-8", **{name: os.environ[name] for name in kept if name in os.environ}}


def _fresh_partial(data: Path) -> Path:
    """Create an empty directory beside a data directory, to be renamed when it is complete."""
    partial = data.with_name(f"{data.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, mode=0o700)
    return partial


def _change_owner(path: Path, account: Account | None) -> None:
    if account:
        os.chown(path, account.uid, account.gid)


def _require_passwords(hba: Path) -> None:
    _overwrite(
        hba,
        b"# All users log in with a password, over TCP, from this machine.\n"
        b"host all all 127.0.0.1/32 scram-sha-256\n"
        b"host all all ::1/128 scram-sha-256\n",
    )


# Files in a directory of the server's account, which could have put a link there instead.


def _read(path: Path, size: int = -1) -> bytes:
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        return file.read(size)


def _overwrite(path: Path, content: bytes) -> None:
    """Replace the content of a file, which keeps its owner."""
    with os.fdopen(open_private(path, os.O_WRONLY), "wb") as file:
        file.truncate()
        file.write(content)


def _remove(path: Path) -> None:
    """Remove a file, a directory or a link; not the target of a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.old"))


def _tail(log: Path, offset: int) -> str:
    with os.fdopen(open_private(log, os.O_RDONLY), "rb") as file:
        file.seek(offset)
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])


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
