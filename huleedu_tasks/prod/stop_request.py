"""A request to stop after the revision that runs, before the next one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GO_ON = "go-on"


class Stop:
    """A request to stop, which the Alembic processes see as a removed file.

    Removing a file also works on a full disk.

    Attributes:
        is_requested: Whether the run must stop.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._file: Path | None = None

    @property
    def is_listened_to(self) -> bool:
        """Whether a migration runs that reads the request."""
        return self._file is not None

    def request(self) -> None:
        """Request the stop."""
        self.is_requested = True
        if self._file:
            with suppress(OSError):
                self._file.unlink()

    @contextmanager
    def listening(self, directory: Path) -> Iterator[None]:
        """Let migrations in a `with` block read the request.

        Args:
            directory: The directory of the file during the block.
        """
        self._file = directory / GO_ON
        self._file.touch()
        try:
            yield
        finally:
            self._file = None
