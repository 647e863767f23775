"""Standard output and standard error that survive errors of writing.

A closed pipe, a closed terminal or a full disk must not end a migration. After such an error the
stream is redirected to /dev/null.
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
# Seconds to wait for the reader of a non-blocking pipe.
PATIENCE = 10.0
# The reader closed the pipe, as `head` does, or the terminal was closed.
_CLOSED_BY_READER = (errno.EPIPE, errno.EIO, errno.EBADF)


class LastingStream:
    """A stream that stores the first error of writing instead of raising it.

    Args:
        stream: The stream to write to.
        number: Its file descriptor.

    Attributes:
        problem: The first error of writing; None if everything was written.
    """

    def __init__(self, stream: TextIO, number: int) -> None:
        self.problem: OSError | None = None
        self._stream = stream
        self._number = number

    def write(self, text: str) -> int:
        """Write a string; characters that the encoding does not have are escaped."""
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
        """Write several strings."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the buffer."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            self._drop(error)

    def _write_in_parts(self, text: str) -> None:
        """Write to a non-blocking pipe, and wait for its reader.

        Python's buffer loses data that does not fit into such a pipe.
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
    """Standard output and standard error of a command."""

    output: LastingStream
    error: LastingStream

    @property
    def lost(self) -> OSError | None:
        """The error of writing the result; None if it was written or the pipe was closed."""
        problem = self.output.problem
        return problem if problem and problem.errno not in _CLOSED_BY_READER else None


@contextmanager
def lasting_streams() -> Iterator[Streams]:
    """Replace both streams during a `with` block by streams that survive errors."""
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
    """Redirect a file descriptor to /dev/null, or else Python fails to flush it at exit."""
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
    """Open closed standard streams on /dev/null.

    Otherwise a socket would get their number, and receive what is printed.
    """
    for number in (0, STANDARD_OUTPUT, STANDARD_ERROR):
        try:
            os.fstat(number)
        except OSError:
            # os.open returns the lowest free number.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
