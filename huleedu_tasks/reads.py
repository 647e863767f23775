"""What is read in this process on behalf of one service, while others are worked on as well.

Seeds run in one process and share its modules. What a module has read for one service while it was
imported, or keeps in a cache, counts for every one.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.migrations.tracking import Reads, is_installed, may_change

_current: ContextVar[Reads] = ContextVar("reads")


@dataclass(frozen=True, slots=True)
class _Process:
    """What has been heard as long as this process lives, like the modules it has loaded."""

    modules: frozenset[str] = field(default_factory=lambda: frozenset(sys.modules))
    heard: list[Reads] = field(default_factory=list)
    # By the file of the module that was being imported.
    imports: dict[str, Reads] = field(default_factory=dict)

    def hear(self, event: str, arguments: Sequence[Any]) -> None:
        """Take an audit event."""
        if event not in Reads.EVENTS:
            return
        if reads := _current.get(None):
            reads.hear(event, arguments, depth=2)
            if importing := _being_imported():
                self.imports.setdefault(importing, Reads()).hear(event, arguments, depth=2)
        elif threading.current_thread() is not threading.main_thread():
            # Nobody knows for whom a thread works.
            for each in self.heard:
                each.hear(event, arguments, depth=2)

    def shared_modules(self) -> list[ModuleType]:
        """Return the modules loaded since that are neither installed nor forgotten again."""
        added = (module for name, module in list(sys.modules.items()) if name not in self.modules)
        return [module for module in added if _is_edited_in_place(module)]


@contextmanager
def listening() -> Iterator[Reads]:
    """Note what the current task, and all it calls, reads in a `with` block."""
    reads = Reads()
    _process().heard.append(reads)
    before = _current.set(reads)
    try:
        yield reads
    finally:
        _current.reset(before)


def used_for(reads: Reads) -> Used:
    """Return what may have a part in what was done in one `with` block."""
    process = _process()
    modules = process.shared_modules()
    imports = process.imports
    every = [reads, *(imports[m.__file__] for m in modules if m.__file__ in imports)]
    if any(map(_has_cache, modules)):
        every = process.heard
    return Used(
        files=sorted({file for each in every for file in each.files}),
        folders=sorted({folder for each in every for folder in each.folders}),
        addresses=sorted(reads.addresses),
        untracked=sorted(reads.untracked),
        clocks=sorted(reads.clocks),
        # Which of them are read is not heard in this process.
        all_variables=True,
    )


@cache
def _process() -> _Process:
    """Begin to listen; a hook cannot be taken away again."""
    process = _Process()
    sys.addaudithook(process.hear)
    return process


def _being_imported() -> str:
    """Return the file of the module whose own lines run at this moment; or nothing."""
    frame = sys._getframe(2)  # noqa: SLF001  # nothing else tells
    while frame.f_back and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame.f_code.co_filename if frame.f_back else ""


def _is_edited_in_place(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and may_change(file) and not is_installed(file)


def _has_cache(module: ModuleType) -> bool:
    """Whether a function of a module keeps what it has returned (functools.lru_cache)."""
    return any(hasattr(value, "cache_info") for value in list(vars(module).values()))
