"""Seeds in SQL, run in a transaction of ours; an error names the line."""

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
# PostgreSQL's context of an error in the rows.
_ROW = re.compile(r"^COPY .*, line (\d+)", re.MULTILINE)


async def run_file(session: "asyncpg.Connection", path: Path, name: str) -> None:
    """Run a file of SQL.

    Args:
        name: The file's name, for errors.

    Raises:
        SeedError: If it fails, with the line.
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
            hint="Nothing was kept. Save it as UTF-8; `pg_dump --encoding=UTF8` writes that.",
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
    # asyncpg's public methods write the statement themselves, without most of its options.
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
    """Return an error with its line."""
    line = _line_in(file, part[0], error)
    if line is None and len(singly := file.singly(part)) > 1:
        line = await _line_of_failing(session, file, singly)
    if line is None:
        line = file.line_of(part[0].start)
    shown = file.text.splitlines()[line - 1 : line]
    facts = {name: getattr(error, name.lower(), None) for name in ("DETAIL", "HINT", "CONTEXT")}
    told = [f"{name}:  {text}" for name, text in facts.items() if text]
    return SeedError(
        f"The seed {file.name} failed in line {line}: {error.args[0]}",
        code="seed-failed",
        hint="Nothing of it was kept. Correct it and run `invoke db.seed`.",
        output="\n".join([f"LINE {line}:  {''.join(shown)[:200]}", *told, ""]),
    )


def _line_in(file: SqlFile, first: Statement, error: "asyncpg.PostgresError") -> int | None:
    """Return the line that the server names itself; None if it names none."""
    if first.rows and (row := _ROW.search(error.context or "")):
        return file.line_of(first.rows[0]) + int(row[1]) - 1
    if error.position:
        return file.line_of(first.start + int(error.position) - 1)
    return None


async def _line_of_failing(
    session: "asyncpg.Connection", file: SqlFile, part: Sequence[Statement]
) -> int | None:
    """Run statements one by one, and return the line of the one that fails; None if none does."""
    import asyncpg

    await session.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
    for statement in part:
        try:
            await session.execute(file.text[statement.start : statement.end])
        except asyncpg.PostgresError:
            return file.line_of(statement.start)
    return None
