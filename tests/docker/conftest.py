"""These tests use the machine's own Docker Engine, and are skipped if there is none."""

from pathlib import Path

import pytest

from tests.support.docker import why_no_docker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this directory with the reason why they cannot run."""
    here = Path(__file__).parent
    own = [item for item in items if item.path.is_relative_to(here)]
    if own and (reason := why_no_docker()):
        for item in own:
            item.add_marker(pytest.mark.skip(reason=reason))
