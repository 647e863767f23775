"""Standard output and standard error that outlast their readers.

Who reads what a command prints is not part of its work: a closed pipe, a terminal that went away or
a full disk under a log must not end a migration. Such a stream goes nowhere from then on.
"""

import errno
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO, cast

STANDARD_OUTPUT = 1
STANDARD_ERROR = 2
# A reader of a pipe that does not block is waited for, in seconds.
PATIENCE = 10.0
# The reader has gone, as with `| head`, or its terminal was closed.
_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)


class LastingStream:
    """A stream whose errors are remembered, and raised for nobody.

    Attributes:
        problem: Why something could not be written; None as long as everything was.
    """

    def __init__(self, stream: TextIO, number: int) -> None:
        self.problem: OSError | None = None
        self._stream = stream
        self._number = number

    def write(self, text: str) -> int:
        """Write, with the characters escaped that the stream's encoding does not have."""
        if not _blocks(self._number):
            self._attempt(lambda: self._write_in_parts(text))
            return len(text)
        try:
            self._attempt(lambda: self._stream.write(text))
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            escaped = text.encode(encoding, "backslashreplace").decode(encoding)
            self._attempt(lambda: self._stream.write(escaped))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is held back."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            self._drop(error)

    def _write_in_parts(self, text: str) -> None:
        """Write to a pipe that does not block, waiting for its reader.

        Python's own buffer loses what does not fit into such a pipe.
        """
        self._stream.flush()
        rest = text.encode(self._stream.encoding or "ascii", "backslashreplace")
        while rest:
            if not select.select([], [self._number], [], PATIENCE)[1]:
                raise BlockingIOError(errno.EAGAIN, "the reader of the pipe does not read")
            with suppress(BlockingIOError):
                rest = rest[os.write(self._number, rest) :]

    def _drop(self, error: OSError) -> None:
        self.problem = self.problem or error
        drop(self._number)
        with suppress(OSError):
            self._stream.flush()


@dataclass(frozen=True, slots=True)
class Streams:
    """Both streams of a command."""

    output: LastingStream
    error: LastingStream

    @property
    def lost(self) -> OSError | None:
        """Why the result could not be written although it is wanted; None if it was."""
        problem = self.output.problem
        return problem if problem and problem.errno not in _NOBODY_READS else None


@contextmanager
def lasting_streams() -> Iterator[Streams]:
    """Have both streams outlast their readers for the time of a `with` block."""
    _open_closed_ones()
    usual = sys.stdout, sys.stderr
    streams = Streams(
        LastingStream(sys.stdout or _nowhere(), STANDARD_OUTPUT),
        LastingStream(sys.stderr or _nowhere(), STANDARD_ERROR),
    )
    sys.stdout, sys.stderr = cast(TextIO, streams.output), cast(TextIO, streams.error)
    try:
        yield streams
    finally:
        streams.output.flush()
        streams.error.flush()
        sys.stdout, sys.stderr = usual


def drop(number: int) -> None:
    """Have what is still printed go nowhere: else Python tries again at its end, and complains."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)


def _blocks(number: int) -> bool:
    try:
        return os.get_blocking(number)
    except OSError:
        return True


def _open_closed_ones() -> None:
    """Open what was closed: a database's socket would get its number, and what is printed."""
    for number in (0, STANDARD_OUTPUT, STANDARD_ERROR):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
