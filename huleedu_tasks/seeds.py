"""A service's seeds: SQL files and Python scripts, applied in one transaction.

A script defines `async def seed(connection)`. The transaction is opened and committed here, so
that a seed that fails half-way leaves nothing behind.
"""

import asyncio
import contextlib
import hashlib
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import SeedError
from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import Mark, read_mark, write_mark
from huleedu_tasks.reads import listening, used_for

if TYPE_CHECKING:
    import asyncpg

Seed = Callable[["asyncpg.Connection"], Awaitable[None]]
ENTRY_POINT = "seed"


def fingerprint(service: Service) -> str:
    """Return what tells whether a service's seeds have changed; empty if it has none."""
    if not service.seeds:
        return ""
    digest = hashlib.sha256()
    for path in seed_files(service):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def seed_files(service: Service) -> list[Path]:
    """Return a service's seeds, and the siblings a script may import: those nobody's seed is."""
    folders = {path.parent for path in service.seeds if path.suffix == ".py"}
    modules = {path for folder in folders for path in folder.glob("*.py")}
    shared = {path for path in modules if not path.name.startswith("seed_")}
    return [*service.seeds, *sorted(shared - set(service.seeds))]


async def apply(service: Service, url: DatabaseUrl, *, environment: str, timeout: float) -> Used:
    """Apply a service's seeds and note it in the database's mark, all or nothing.

    Args:
        environment: The environment the mark names.
        timeout: Seconds they may take.

    Returns:
        What they have used.

    Raises:
        SeedError: With the failing script's traceback.
        ServerError: If the database cannot be reached.
    """
    async with connection(url, uncounted=True) as target:
        path = service.seeds[0]
        try:
            async with asyncio.timeout(timeout), target.transaction():
                with listening() as reads:
                    for path in service.seeds:
                        await _apply_file(path, target)
                mark = await read_mark(target, url.database) or Mark(environment=environment)
                seeded = replace(mark, environment=environment, seeds=fingerprint(service))
                await write_mark(target, url.database, seeded)
                return used_for(reads) + Used(sessions=1)
        except TimeoutError:
            raise SeedError(
                f"The seed {path.name} took longer than {timeout:g} s; nothing of it was kept.",
                hint="HULEEDU_MIGRATION_TIMEOUT allows more time.",
            ) from None
        except SeedError:
            raise
        # A script may raise anything, and `sys.exit()` in it must not end the other services.
        except (Exception, SystemExit) as error:
            raise SeedError(
                f"The seed {path.name} failed: {type(error).__name__}: {error}",
                hint="Nothing of it was kept. Correct it and run `invoke db.seed`.",
                output=_traceback_in(path, error),
            ) from None


async def _apply_file(path: Path, target: "asyncpg.Connection") -> None:
    if path.suffix == ".sql":
        # asyncpg 0.32 does not know what to make of a text without any statement.
        await target.execute(f"{_sql(path)}\n;SELECT")
    else:
        await _load(path)(target)


def _sql(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _load(path: Path) -> Seed:
    spec = spec_from_file_location(f"huleedu_seed_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SeedError(f"{path} cannot be loaded as Python.")
    module = module_from_spec(spec)
    with _importing_from(path.parent):
        spec.loader.exec_module(module)
    seed: Seed | None = getattr(module, ENTRY_POINT, None)
    if not inspect.iscoroutinefunction(seed):
        raise SeedError(
            f"{path} defines no `async def {ENTRY_POINT}(connection)`.",
            hint="docs/seeds.md shows one.",
        )
    return seed


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let a script import its siblings, and forget them: another folder may have the same names."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(folder):
                del sys.modules[name]


def _traceback_in(path: Path, error: BaseException) -> str:
    """Format a traceback from the script's own first line on: the frames above are ours."""
    summary = traceback.TracebackException.from_exception(error)
    frames = list(summary.stack)
    own = [index for index, frame in enumerate(frames) if frame.filename == str(path)]
    if own:
        summary.stack = traceback.StackSummary.from_list(frames[own[0] :])
    return "".join(summary.format())
