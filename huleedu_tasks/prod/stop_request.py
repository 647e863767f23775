"""A request to stop at a good place: after the revision that runs, before the next one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GO_ON = "go-on"


class Stop:
    """Whether work is to stop, which the processes see by a file that is gone.

    A file that is removed needs no room on a disk.

    Attributes:
        is_requested: Whether it is to stop.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._file: Path | None = None

    @property
    def is_listened_to(self) -> bool:
        """Whether work is going on that stops by itself."""
        return self._file is not None

    def request(self) -> None:
        """Have work stop."""
        self.is_requested = True
        if self._file:
            with suppress(OSError):
                self._file.unlink()

    @contextmanager
    def listening(self, directory: Path) -> Iterator[None]:
        """Do work that stops by itself in a `with` block.

        Args:
            directory: Where the file lies meanwhile.
        """
        self._file = directory / GO_ON
        self._file.touch()
        try:
            yield
        finally:
            self._file = None
