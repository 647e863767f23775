"""Seeds in Python, loaded as modules."""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.errors import SeedError

if TYPE_CHECKING:
    import asyncpg

Seed = Callable[["asyncpg.Connection"], Awaitable[None]]
ENTRY_POINT = "seed"


@contextmanager
def loading(path: Path) -> Iterator[Seed]:
    """Load a script for a `with` block, in which it can import the modules beside it.

    These modules are removed from `sys.modules` afterwards, because a seed in another directory may
    import modules of the same names.

    Raises:
        SeedError: If the script does not define `async def seed(connection)`.
    """
    known = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    try:
        yield _seed_in(path)
    finally:
        sys.path.remove(str(path.parent))
        for name in set(sys.modules) - known:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(path.parent):
                del sys.modules[name]


def traceback_in(path: Path, error: BaseException) -> str:
    """Return a traceback without the frames of this package that precede the script's own."""
    summary = traceback.TracebackException.from_exception(error)
    frames = list(summary.stack)
    own = [index for index, frame in enumerate(frames) if frame.filename == str(path)]
    if own:
        summary.stack = traceback.StackSummary.from_list(frames[own[0] :])
    return "".join(summary.format())


def _seed_in(path: Path) -> Seed:
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SeedError(
            f"{path} is not a Python module.",
            code="seed-invalid",
            hint="State a .py or .sql file in 'seeds'.",
        )
    module = importlib.util.module_from_spec(spec)
    # dataclasses, pydantic, pickle and multiprocessing look modules up in sys.modules.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    seed: Seed | None = getattr(module, ENTRY_POINT, None)
    if not inspect.iscoroutinefunction(seed):
        raise SeedError(
            f"{path} defines no `async def {ENTRY_POINT}(connection)`.",
            code="seed-invalid",
            hint="Define this function. It receives an asyncpg connection.",
        )
    return seed


def _module_name(path: Path) -> str:
    """Return the name under which `import` finds the script, or a unique name if it does not."""
    name = path.stem
    if name.isidentifier() and name not in sys.modules and name not in sys.stdlib_module_names:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin == str(path):
            return name
    # Without dots, which would name a package.
    return "huleedu_seed_" + re.sub(r"\W", "_", name)
