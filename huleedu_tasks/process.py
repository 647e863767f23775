"""Child processes: the only user of `subprocess`.

A child never reads the terminal, and lives in a process group of its own, so that Ctrl-C reaches
it only through us and what it started can be ended with it.
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

# How long a child may take to clean up after SIGTERM, in seconds.
GRACE = 3.0
# How long what a child has left running may hold its output open, in seconds.
OUTPUT_GRACE = 0.5
# How much is kept of what a service's own code prints, in bytes at the beginning and at the end.
PRINTED = 2**17
# The same for programs whose output is read.
ANSWERED = 2**24
_PRIVATE = 0o077
_LOG_MODE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user a child runs as, where it must not be the one we are."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a child ended.

    Attributes:
        returncode: Its exit status; negative for a signal.
        output: What it printed, standard output and error as they came; of much of it the
            beginning and the end.
        timed_out: Whether it was ended because its time was over.
    """

    returncode: int
    output: str
    timed_out: bool = False


class Output(asyncio.Protocol):
    """Keeps the beginning and the end of what comes through a pipe.

    Args:
        keeps: Bytes that are kept of each.

    Attributes:
        ended: Done as soon as nobody has the other end any more.
    """

    def __init__(self, keeps: int) -> None:
        self._keeps = keeps
        self._beginning = bytearray()
        self._end = bytearray()
        self._left_out = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Take what was printed."""
        room = self._keeps - len(self._beginning)
        self._beginning += data[:room]
        self._end += data[room:]
        # Not for each piece: what remains is moved.
        if len(self._end) > 2 * self._keeps:
            self._cut()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that there will be no more."""
        if not self.ended.done():
            self.ended.set_result(None)

    async def wait(self) -> None:
        """Wait for the end, but not for what a child has left running."""
        await asyncio.wait([self.ended], timeout=OUTPUT_GRACE)

    @property
    def text(self) -> str:
        """What was printed, with a line that says how much of it is left out."""
        self._cut()
        beginning, end = self._beginning, self._end
        if not self._left_out:
            return (beginning + end).decode(errors="replace")
        # Whole lines: half a password would not be recognised as one.
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
    """Read from a pipe while a `with` block runs, and close it then.

    Args:
        pipe: Its reading end.
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
    """Make a directory for what passes between us and a child, for the time of a `with` block.

    Raises:
        ConfigurationError: If there is no room for temporary files.
    """
    try:
        directory = tempfile.TemporaryDirectory(prefix="huleedu-")
    except OSError as error:
        raise ConfigurationError(
            f"No temporary directory can be made: {error.strerror or error}.",
            code="temporary-directory-unwritable",
            hint="Let TMPDIR name a directory that can be written.",
        ) from error
    with directory as name:
        yield Path(name)


async def run(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float,
    stdin: str = "",
    lifeline: bool = False,
    account: Account | None = None,
    keeps: int = ANSWERED,
) -> Completed:
    """Run a child to its end; end it and all it started if we are cancelled or time is over.

    What it leaves running in a session of its own is not waited for.

    Args:
        timeout: Seconds it may take.
        stdin: What it reads from its standard input.
        lifeline: Whether its standard input stays open, and so ends when we do, however that is:
            a child that watches it does not outlive us.
        account: The user it runs as; needs root.
        keeps: Bytes that are kept of the beginning of its output, and of its end.

    Raises:
        OSError: If it cannot be started.
    """
    # Pipes of our own: asyncio would wait for whoever holds its own ones, besides the child.
    reading, writing = os.pipe()
    held, holding = os.pipe() if lifeline else (None, None)
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
                if child.stdin:
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
        # It may be born all the same, and nobody else would know of it.
        with contextlib.suppress(OSError):
            await _end_group(await starting)
        raise


async def talk_to(command: Sequence[str | Path]) -> asyncio.subprocess.Process:
    """Start a child that reads requests from its standard input and answers on standard output.

    It ends when its standard input does.

    Raises:
        OSError: If it cannot be started.
    """
    return await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )


def output_of(command: Sequence[str | Path], *, timeout: float = 10.0) -> str:
    """Return what a short command prints on standard output, or nothing if it fails.

    Names of files in it may be no UTF-8; they are decoded as Python decodes any name.
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
    # A name may begin or end with a blank.
    return os.fsdecode(done.stdout).rstrip("\r\n") if done.returncode == 0 else ""


def spawn_server(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    account: Account | None,
) -> "subprocess.Popen[bytes]":
    """Start a child that outlives us and writes to a log file.

    A pipe would break, and end the server, as soon as nobody reads it any more. The log holds
    whole statements, and is its owner's alone.

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
    """Become another program.

    Args:
        cwd: The directory it runs in; ours if left out.

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
    """End whatever is left of a process group, politely first.

    Args:
        pid: Of the process that leads it.
        end: Done as soon as that process has ended.
    """
    _signal_group(pid, signal.SIGTERM)
    try:
        if not end.done():
            await asyncio.wait([end], timeout=GRACE)
    finally:
        # Also after a second Ctrl-C, which does not let us wait any longer.
        _signal_group(pid, signal.SIGKILL)
    await end


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
