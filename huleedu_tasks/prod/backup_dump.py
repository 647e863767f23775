"""Run a backup: the user's own command, or `pg_dump` whose dump is read back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import BackupError
from huleedu_tasks.postgres.psql import psql_environment

SHELL = "/bin/sh"
ONLY_THE_OWNER = 0o600
PART = ".part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumper:
    """PostgreSQL's programs that write a dump and read it back."""

    pg_dump: str
    pg_restore: str


async def run_command(
    command: str, *, root: Path, environment: Mapping[str, str], timeout: float
) -> None:
    """Run a backup command in a shell, at the root of the monorepo.

    Args:
        environment: The environment variables of the command.
        timeout: The limit in seconds.

    Raises:
        BackupError: If it exits with another code than 0, or exceeds the limit.
    """
    done = await process.run(
        [SHELL, "-c", command], cwd=root, environment=environment, timeout=timeout
    )
    _require_success("The backup command", done, timeout)


async def dump(
    url: DatabaseUrl,
    path: Path,
    dumper: Dumper,
    *,
    environment: Mapping[str, str],
    timeout: float,
) -> None:
    """Dump a database in pg_dump's custom format, and read the dump back.

    Only the current user can read the file.

    Args:
        path: The file, which must not exist yet.
        environment: The environment variables of both programs, without the password.
        timeout: The limit in seconds for each of the two programs.

    Raises:
        BackupError: If the database cannot be dumped, or the dump cannot be read.
    """
    # A dump that was not read back yet must not have the name of a backup.
    part = path.with_name(f"{path.name}{PART}")
    _create(part)
    variables = psql_environment(url, environment)
    writing = [dumper.pg_dump, "--format=custom", f"--file={part}"]
    # `pg_restore --list` reads only the table of contents; this reads every row.
    reading = [dumper.pg_restore, "--file=/dev/null", str(part)]
    try:
        for what, command in (("pg_dump", writing), ("pg_restore", reading)):
            done = await process.run(
                command, cwd=path.parent, environment=variables, timeout=timeout
            )
            _require_success(what, done, timeout)
        _keep(part, path)
    finally:
        part.unlink(missing_ok=True)


def _keep(part: Path, path: Path) -> None:
    """Rename a dump that was read back to its final name."""
    part.rename(path)


def _create(path: Path) -> None:
    try:
        path.touch(mode=ONLY_THE_OWNER, exist_ok=False)
    except OSError as error:
        raise BackupError(
            f"{path} could not be written: {error.strerror}",
            code="backup-directory-invalid",
            hint="Pass a writable directory with free space with --backup-dir.",
        ) from error


def _require_success(what: str, done: process.Completed, timeout: float) -> None:
    if done.timed_out:
        raise BackupError(
            f"{what} took longer than {timeout:g} s.",
            code="backup-timeout",
            hint="Set HULEEDU_BACKUP_TIMEOUT to more seconds.",
            output=done.output,
        )
    if done.returncode != 0:
        raise BackupError(
            f"{what} failed with exit code {done.returncode}; nothing was changed.",
            code="backup-failed",
            hint="Correct the cause that its output names, then run the same command again.",
            output=done.output,
        )
