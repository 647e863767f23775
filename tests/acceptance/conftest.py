"""Here every command runs in an interpreter of its own, as a user's does."""

from collections.abc import Iterator

import pytest

from tests.support.fork_server import fresh_interpreters


@pytest.fixture(scope="package", autouse=True)
def no_fork_server() -> Iterator[None]:
    """Have no command forked from an interpreter that has imported it already."""
    with fresh_interpreters():
        yield
