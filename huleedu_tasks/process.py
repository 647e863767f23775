"""Child processes: the only user of `subprocess`.

A child never reads the terminal. It runs in a process group of its own: Ctrl-C reaches only this
process, which then ends the whole group.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.state_dir import open_private

# Seconds that a child has to clean up after SIGTERM.
GRACE = 3.0
# Seconds that a child's background processes may keep its output pipe open.
OUTPUT_GRACE = 0.5
# Bytes kept of the output of a service's own code, at its beginning and at its end.
PRINTED = 2**17
# The same for programs whose output is parsed.
ANSWERED = 2**24
_PRIVATE = 0o077
_LOG_MODE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operating system user that a child runs as, if not the current one."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a child ended.

    Attributes:
        returncode: Its exit status; negative for a signal.
        output: Its standard output and standard error, interleaved; if it is long, the
            beginning and the end.
        timed_out: Whether it was ended because it exceeded its timeout.
    """

    returncode: int
    output: str
    timed_out: bool = False


class Lifeline:
    """A standard input that stays open until this process ends, even by SIGKILL.

    A child that watches it does not outlive this process.
    """


class Output(asyncio.Protocol):
    """Keeps the beginning and the end of the data read from a pipe.

    Args:
        keeps: Bytes that are kept of each.

    Attributes:
        ended: Done as soon as no process has the pipe's write end open.
    """

    def __init__(self, keeps: int) -> None:
        self._keeps = keeps
        self._beginning = bytearray()
        self._end = bytearray()
        self._left_out = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Store a piece of output."""
        room = self._keeps - len(self._beginning)
        self._beginning += data[:room]
        self._end += data[room:]
        # Not after each piece: cutting moves the bytes that remain.
        if len(self._end) > 2 * self._keeps:
            self._cut()

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end of the output."""
        if not self.ended.done():
            self.ended.set_result(None)

    async def wait(self) -> None:
        """Wait for the end of the output, at most `OUTPUT_GRACE` for background processes."""
        await asyncio.wait([self.ended], timeout=OUTPUT_GRACE)

    @property
    def text(self) -> str:
        """The output, with a line that states how many bytes were left out, if any."""
        self._cut()
        beginning, end = self._beginning, self._end
        if not self._left_out:
            return (beginning + end).decode(errors="replace")
        # Whole lines: the redaction would not find half a password.
        beginning = beginning[: beginning.rfind(b"\n") + 1] or beginning
        end = end[end.find(b"\n") + 1 :] or end
        left_out = self._left_out + self._keeps * 2 - len(beginning) - len(end)
        note = f"\n[{left_out} bytes of output are left out here]\n\n"
        return f"{beginning.decode(errors='replace')}{note}{end.decode(errors='replace')}"

    def _cut(self) -> None:
        too_many = max(0, len(self._end) - self._keeps)
        self._left_out += too_many
        del self._end[:too_many]


@contextlib.asynccontextmanager
async def reading_from(pipe: int, *, keeps: int) -> AsyncIterator[Output]:
    """Read from a pipe while a `with` block runs, then close it.

    Args:
        pipe: The file descriptor of its read end.
        keeps: Bytes that are kept of the beginning, and of the end.
    """
    loop = asyncio.get_running_loop()
    file = os.fdopen(pipe, "rb", buffering=0)
    transport, output = await loop.connect_read_pipe(lambda: Output(keeps), file)
    try:
        yield output
    finally:
        transport.close()


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """Create a temporary directory for files exchanged with a child, for a `with` block.

    Raises:
        ConfigurationError: If no temporary directory can be created.
    """
    try:
        directory = tempfile.TemporaryDirectory(prefix="huleedu-")
    except OSError as error:
        raise ConfigurationError(
            f"A temporary directory could not be created: {error.strerror or error}.",
            code="temporary-directory-unwritable",
            hint="Set TMPDIR to a directory that this account may write to.",
        ) from error
    with directory as name:
        yield Path(name)


async def run(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float,
    stdin: str | Lifeline = "",
    account: Account | None = None,
    keeps: int = ANSWERED,
) -> Completed:
    """Run a child to its end; end its process group on cancellation and at the timeout.

    A process that it started in a session of its own is not waited for.

    Args:
        command: The program and its arguments.
        cwd: Its working directory.
        environment: All its environment variables.
        timeout: Seconds it may take.
        stdin: The content of its standard input, or a lifeline.
        account: The user it runs as, which needs root; the current one if None.
        keeps: Bytes that are kept of the beginning of its output, and of its end.

    Raises:
        OSError: If it cannot be started.
    """
    # Not asyncio's own pipes: it would wait for every process that has them open.
    reading, writing = os.pipe()
    held, holding = os.pipe() if isinstance(stdin, Lifeline) else (None, None)
    inputs = asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL
    async with reading_from(reading, keeps=keeps) as output:
        try:
            child = await _start(
                command,
                cwd=cwd,
                environment=environment,
                stdin=inputs if held is None else held,
                output=writing,
                account=account,
            )
        except BaseException:
            _close(holding)
            raise
        finally:
            _close(writing, held)
        timed_out = False
        try:
            async with asyncio.timeout(timeout):
                if child.stdin and isinstance(stdin, str):
                    child.stdin.write(stdin.encode())
                    child.stdin.close()
                await child.wait()
            await output.wait()
        except TimeoutError:
            timed_out = True
        finally:
            await _end_group(child)
            _close(holding)
            await output.wait()
        return Completed(
            returncode=child.returncode if child.returncode is not None else -signal.SIGKILL,
            output=output.text,
            timed_out=timed_out,
        )


async def _start(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    stdin: int,
    output: int,
    account: Account | None,
) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *map(str, command),
            cwd=cwd,
            env=dict(environment),
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=_PRIVATE if account else -1,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The child may start nevertheless, and no other code has a reference to it.
        with contextlib.suppress(OSError):
            await _end_group(await starting)
        raise


async def start_server(
    command: Sequence[str | Path], *, environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    """Start a child that reads requests from its standard input and answers on standard output.

    It ends when its standard input is closed.

    Args:
        command: The program and its arguments.
        environment: All its environment variables.

    Raises:
        OSError: If it cannot be started.
    """
    return await asyncio.create_subprocess_exec(
        *map(str, command),
        env=dict(environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


def output_of(command: Sequence[str | Path], *, timeout: float = 10.0) -> str:
    """Return the standard output of a short command.

    File names in it need not be UTF-8; they are decoded as Python decodes any file name.

    Args:
        timeout: Seconds it may take.

    Returns:
        The output without its last line break; empty if the command fails or times out.
    """
    try:
        done = subprocess.run(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # A file name may begin or end with a space.
    return os.fsdecode(done.stdout).rstrip("\r\n") if done.returncode == 0 else ""


def spawn_server(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    account: Account | None,
) -> "subprocess.Popen[bytes]":
    """Start a server that outlives this process and writes to a log file.

    A pipe would break, and end the server, when this process ends. The log contains whole SQL
    statements; only its owner may read it.

    Args:
        log: The log file; created if it is missing, appended to otherwise.
        account: The user it runs as, which needs root; the current one if None.

    Raises:
        OSError: If the log cannot be written, or the child cannot be started.
    """
    with os.fdopen(open_private(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as sink:
        os.fchmod(sink.fileno(), _LOG_MODE)
        return subprocess.Popen(
            list(map(str, command)),
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=_PRIVATE if account else -1,
        )


def replace_with(
    command: Sequence[str], environment: Mapping[str, str], *, cwd: Path | None = None
) -> NoReturn:
    """Replace this process by another program.

    Args:
        cwd: Its working directory; the current one if None.

    Raises:
        OSError: If it cannot be started.
    """
    if cwd:
        os.chdir(cwd)
    os.execvpe(command[0], list(command), dict(environment))


def _close(*files: int | None) -> None:
    for file in files:
        if file is not None:
            os.close(file)


async def _end_group(child: asyncio.subprocess.Process) -> None:
    await end_group(child.pid, asyncio.ensure_future(child.wait()))


async def end_group(pid: int, end: "asyncio.Future[int]") -> None:
    """End a process group: SIGTERM first, SIGKILL after `GRACE` seconds.

    Args:
        pid: The pid of its leader.
        end: Done as soon as the leader has ended.
    """
    _signal_group(pid, signal.SIGTERM)
    try:
        if not end.done():
            await asyncio.wait([end], timeout=GRACE)
    finally:
        # Also after a second Ctrl-C, which cancels the wait.
        _signal_group(pid, signal.SIGKILL)
    await end


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
