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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from huleedu_tasks.errors import ConfigurationError

# How long a child may take to clean up after SIGTERM, in seconds.
GRACE = 3.0
_CHUNK = 65536
_PRIVATE = 0o077


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
        output: All it printed, standard output and error as they came.
        timed_out: Whether it was ended because its time was over.
    """

    returncode: int
    output: str
    timed_out: bool = False


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for what passes between us and a child, for the time of a `with` block.

    Raises:
        ConfigurationError: If there is no room for temporary files.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="huleedu-")
    except OSError as error:
        raise ConfigurationError(
            f"No temporary folder can be made: {error.strerror or error}.",
            hint="Let TMPDIR name a folder that can be written.",
        ) from error
    with folder as name:
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
) -> Completed:
    """Run a child to its end; end it and all it started if we are cancelled or time is over.

    Args:
        timeout: Seconds it may take.
        stdin: What it reads from its standard input.
        lifeline: Whether its standard input stays open, and so ends when we do, however that is:
            a child that watches it does not outlive us.
        account: The user it runs as; needs root.

    Raises:
        OSError: If it cannot be started.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *map(str, command),
            cwd=cwd,
            env=dict(environment),
            stdin=asyncio.subprocess.PIPE if stdin or lifeline else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            umask=_PRIVATE if account else -1,
        )
    )
    try:
        child = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It may be born all the same, and nobody else would know of it.
        with contextlib.suppress(OSError):
            await _end_group(await starting)
        raise
    output = bytearray()
    reading = asyncio.create_task(_read_into(output, child.stdout))
    timed_out = False
    try:
        async with asyncio.timeout(timeout):
            if child.stdin and not lifeline:
                child.stdin.write(stdin.encode())
                child.stdin.close()
            await child.wait()
        # What it has left running may hold the pipe open for ever.
        await asyncio.wait([reading], timeout=GRACE)
    except TimeoutError:
        timed_out = True
    finally:
        await _end_group(child)
        await asyncio.wait([reading], timeout=GRACE)
        reading.cancel()
    return Completed(
        returncode=child.returncode if child.returncode is not None else -signal.SIGKILL,
        output=output.decode(errors="replace"),
        timed_out=timed_out,
    )


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

    A pipe would break, and end the server, as soon as nobody reads it any more.
    """
    with log.open("ab") as sink:
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
        cwd: The folder it runs in; ours if left out.

    Raises:
        OSError: If it cannot be started.
    """
    if cwd:
        os.chdir(cwd)
    os.execvpe(command[0], list(command), dict(environment))


async def _read_into(output: bytearray, stream: asyncio.StreamReader | None) -> None:
    while stream and (chunk := await stream.read(_CHUNK)):
        output += chunk


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
