"""Streams that survive errors of writing."""

import io
import os
import threading
from typing import TextIO, cast

import pytest

from huleedu_tasks.screen.streams import LastingStream


def opened(number: int, encoding: str = "utf-8") -> TextIO:
    """Return a stream on a new file descriptor."""
    return cast(TextIO, os.fdopen(number, "w", encoding=encoding))


def test_a_closed_pipe_is_recorded_and_not_raised() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with opened(writing) as plain:
        stream = LastingStream(plain, writing)
        for _ in range(3):
            print("a line", file=stream, flush=True)
        assert isinstance(stream.problem, BrokenPipeError)


def test_a_full_disk_is_recorded_with_its_reason() -> None:
    number = os.open("/dev/full", os.O_WRONLY)
    with opened(number) as plain:
        stream = LastingStream(plain, number)
        print("a line", file=stream, flush=True)
        assert stream.problem is not None
        assert stream.problem.strerror == "No space left on device"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_an_encoding_does_not_have_are_escaped(encoding: str) -> None:
    written = io.BytesIO()
    stream = LastingStream(io.TextIOWrapper(written, encoding=encoding), 1)
    print("a → b \udc80", file=stream, flush=True)
    assert written.getvalue() == b"a \\u2192 b \\udc80\n"
    assert stream.problem is None


def test_writing_waits_for_a_non_blocking_pipe() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    read = bytearray()

    def read_all() -> None:
        while chunk := os.read(reading, 4096):
            read.extend(chunk)

    reader = threading.Timer(0.1, read_all)
    with opened(writing) as plain:
        stream = LastingStream(plain, writing)
        reader.start()
        for _ in range(40):
            print("x" * 9999, file=stream, flush=True)
        assert stream.problem is None
    reader.join()
    os.close(reading)
    assert len(read) == 400_000
