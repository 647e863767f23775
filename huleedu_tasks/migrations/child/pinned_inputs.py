"""Compares each file that a migration loads with its hash in the approved plan.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from typing import Any

LOADERS = (SourceFileLoader, SourcelessFileLoader)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class ChangedInput(BaseException):
    """A file was changed after approval. `except Exception` does not catch it."""


class PinnedInputs:
    """The files of an approved plan, each compared when it is loaded.

    Args:
        root: The directory to which the paths are relative.
        digests: The SHA-256 of each file, by its path.
        write_event: Writes an event for a changed file.
    """

    def __init__(
        self, *, root: str, digests: Mapping[str, str], write_event: Callable[..., None]
    ) -> None:
        self._digests = digests
        self._write_event = write_event
        # os.getcwd() resolves symbolic links, and the root may contain some.
        roots = (os.path.abspath(root), os.path.realpath(root))
        self._paths = {os.path.normpath(os.path.join(r, p)): p for p in digests for r in roots}
        self._names = {os.path.basename(path) for path in digests}
        self._changed = ""
        self._reading = threading.local()
        if digests:
            sys.addaudithook(self._handle_event)
            for loader in LOADERS:
                self._watch(loader)
            self._ignore_bytecode()

    def require_unchanged(self) -> None:
        """Require that no changed file was loaded, even if the code caught the exception.

        Raises:
            ChangedInput: If one was loaded.
        """
        if self._changed:
            raise ChangedInput(f"{self._changed} was changed after the plan was approved")

    def _pinned(self, path: object) -> str:
        """Return the path of a pinned file in the plan; an empty string if it is not pinned."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return ""
        name = os.fsdecode(path)
        if os.path.basename(name) not in self._names:
            return ""
        return self._paths.get(os.path.abspath(name), "")

    def _compare(self, pinned: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() == self._digests[pinned]:
            return
        if not self._changed:
            self._changed = pinned
            self._write_event("changed", path=pinned)
        self.require_unchanged()

    def _watch(self, loader: Any) -> None:
        plain = loader.get_data

        def get_data(this: Any, path: str) -> Any:
            content = plain(this, path)
            if pinned := self._pinned(path):
                self._compare(pinned, content)
            return content

        loader.get_data = get_data

    def _ignore_bytecode(self) -> None:
        """Compile pinned modules from the compared source: their bytecode may be stale."""
        plain: Any = SourceFileLoader.path_stats

        def path_stats(this: Any, path: str) -> Any:
            if self._pinned(path):
                raise OSError("bytecode is ignored")
            return plain(this, path)

        setattr(SourceFileLoader, "path_stats", path_stats)  # noqa: B010  # not a method here

    def _handle_event(self, event: str, arguments: Sequence[Any]) -> None:
        """Compare a file that the service's code opens."""
        if event != "open" or getattr(self._reading, "ours", False):
            return
        path, _, flags = arguments
        pinned = "" if flags & WRITING else self._pinned(path)
        if not pinned:
            return
        self._reading.ours = True
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            # The service's code gets the same error.
            return
        finally:
            self._reading.ours = False
        self._compare(pinned, content)
