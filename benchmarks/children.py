"""The measured processes: started as a user would, in a clean environment."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(sys.prefix) / "bin"
INVOKE = str(PROGRAMS / "invoke")
ALEMBIC = str(PROGRAMS / "alembic")
# How long a command may take to clean up after Ctrl-C, in seconds.
GRACE = 30.0
# No command takes as long as this, unless it hangs.
LIMIT = 900.0
SHOWN_LINES = 20


class BenchmarkError(Exception):
    """A command to be measured failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The output of a command.

    Attributes:
        out: Its standard output.
        err: Its standard error.
    """

    out: str
    err: str


def clean_environment() -> dict[str, str]:
    """Return the environment without variables that the tasks, Python or Compose read."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HULEEDU_", "PG", "COMPOSE_", "INVOKE_", "ALEMBIC_"))
        and not name.endswith("DATABASE_URL")
        and name != "PYTHONDONTWRITEBYTECODE"
    }


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    stdin: str = "",
    on_start: Callable[[int], object] = str,
) -> Ended:
    """Run a command to its end.

    Args:
        environment: Variables beside those of a clean environment.
        stdin: What it reads from its standard input.
        on_start: Told its process id.

    Raises:
        BenchmarkError: If it fails.
        subprocess.TimeoutExpired: If it hangs.
    """
    # In a new session, so that only this process passes on Ctrl-C, once.
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**clean_environment(), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        on_start(process.pid)
        try:
            out, err = process.communicate(stdin, timeout=LIMIT)
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        said = "\n".join(line for text in (out, err) for line in text.splitlines()[-SHOWN_LINES:])
        raise BenchmarkError(f"{_name(command)} ended with {process.returncode}:\n{said}")
    return Ended(out=out, err=err)


def _name(command: Sequence[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:]])


def _end(process: "subprocess.Popen[str]") -> None:
    """Interrupt a command like Ctrl-C, and wait until it has cleaned up."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
