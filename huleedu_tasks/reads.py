"""What is read in this process on behalf of one service, while others are worked on as well.

Seeds run in one process and share its modules. What stays loaded may hold on to what it has read
for another service, and then counts for every one.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.migrations.worker import Reads, is_installed, may_change

_current: ContextVar[Reads] = ContextVar("reads")


@dataclass(frozen=True, slots=True)
class _Process:
    """What has been heard as long as this process lives, like the modules it has loaded."""

    modules: frozenset[str] = field(default_factory=lambda: frozenset(sys.modules))
    heard: list[Reads] = field(default_factory=list)

    def hear(self, event: str, arguments: Sequence[Any]) -> None:
        """Take an audit event."""
        if reads := _current.get(None):
            reads.hear(event, arguments, depth=2)
        elif threading.current_thread() is not threading.main_thread():
            # Nobody knows for whom a thread works.
            for each in self.heard:
                each.hear(event, arguments, depth=2)

    def shares_modules(self) -> bool:
        """Whether modules were loaded since that are neither installed nor forgotten again."""
        files = (
            getattr(module, "__file__", None)
            for name, module in list(sys.modules.items())
            if name not in self.modules
        )
        return any(
            isinstance(file, str) and may_change(file) and not is_installed(file) for file in files
        )


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
    every = _process().heard if _process().shares_modules() else [reads]
    return Used(
        files=sorted({file for each in every for file in each.files}),
        folders=sorted({folder for each in every for folder in each.folders}),
        addresses=sorted(reads.addresses),
    )


@cache
def _process() -> _Process:
    """Begin to listen; a hook cannot be taken away again."""
    process = _Process()
    sys.addaudithook(process.hear)
    return process
