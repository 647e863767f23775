"""Seeds in SQL, run in the transaction of the seeds; an error names the line."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.errors import SeedError
from huleedu_tasks.seeds.statements import SqlFile, Statement, read_statements

if TYPE_CHECKING:
    import asyncpg

_SAVEPOINT = "huleedu_seed_part"
# The CONTEXT of an error in the rows of COPY.
_ROW = re.compile(r"^COPY .*, line (\d+)", re.MULTILINE)


async def run_file(session: "asyncpg.Connection", path: Path, name: str) -> None:
    """Run an SQL file.

    Args:
        name: The file's name, for messages.

    Raises:
        SeedError: If a statement fails, with its line; or if the file is not allowed as a seed.
    """
    file = read_statements(_text(path, name), name)
    for part in file.parts:
        await _run_part(session, file, part)


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SeedError(
            f"The seed {name} is not UTF-8: {error.reason} at byte {error.start}.",
            code="seed-invalid",
            hint="Save the file as UTF-8, or export it with `pg_dump --encoding=UTF8`.",
        ) from None


async def _run_part(
    session: "asyncpg.Connection", file: SqlFile, part: tuple[Statement, ...]
) -> None:
    import asyncpg

    await session.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        if part[0].rows is not None:
            await _copy(session, file, part[0], part[0].rows)
        else:
            await session.execute(file.text[part[0].start : part[-1].end])
    except asyncpg.PostgresError as error:
        if session.is_closed():
            raise
        raise await _error(session, file, part, error) from None
    else:
        await session.execute(f"RELEASE SAVEPOINT {_SAVEPOINT}")


async def _copy(
    session: "asyncpg.Connection", file: SqlFile, statement: Statement, rows: tuple[int, int]
) -> None:
    # asyncpg's public methods generate the COPY statement, and lack most of its options.
    await session._copy_in(  # noqa: SLF001
        file.text[statement.start : statement.end],
        io.BytesIO(file.text[rows[0] : rows[1]].encode()),
        None,
    )


async def _error(
    session: "asyncpg.Connection",
    file: SqlFile,
    part: tuple[Statement, ...],
    error: "asyncpg.PostgresError",
) -> SeedError:
    """Return the error with the line of the statement that failed."""
    line = _line_in(file, part[0], error)
    if line is None and len(singly := file.singly(part)) > 1:
        line = await _line_of_failing(session, file, singly)
    if line is None:
        line = file.line_of(part[0].start)
    shown = file.text.splitlines()[line - 1 : line]
    facts = {name: getattr(error, name.lower(), None) for name in ("DETAIL", "HINT", "CONTEXT")}
    details = [f"{name}:  {text}" for name, text in facts.items() if text]
    return SeedError(
        f"The seed {file.name} failed in line {line}: {error.args[0]}",
        code="seed-failed",
        hint="Correct the seed, then run `invoke db.seed`. All seeds of the service were rolled "
        "back.",
        output="\n".join([f"LINE {line}:  {''.join(shown)[:200]}", *details, ""]),
    )


def _line_in(file: SqlFile, first: Statement, error: "asyncpg.PostgresError") -> int | None:
    """Return the line that the server reports; None if it reports none."""
    if first.rows and (row := _ROW.search(error.context or "")):
        return file.line_of(first.rows[0]) + int(row[1]) - 1
    if error.position:
        return file.line_of(first.start + int(error.position) - 1)
    return None


async def _line_of_failing(
    session: "asyncpg.Connection", file: SqlFile, part: Sequence[Statement]
) -> int | None:
    """Run statements one by one; return the line of the first that fails, or None."""
    import asyncpg

    await session.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
    for statement in part:
        try:
            await session.execute(file.text[statement.start : statement.end])
        except asyncpg.PostgresError:
            return file.line_of(statement.start)
    return None
