"""Every command of these tests runs in a new interpreter, as it does for a user."""

from collections.abc import Iterator

import pytest

from tests.support.fork_server import fresh_interpreters


@pytest.fixture(scope="module", autouse=True)
def no_fork_server() -> Iterator[None]:
    """Switch off the fork server for commands."""
    with fresh_interpreters():
        yield
