"""The package is built once, and installed in a virtual environment for each case."""

from collections.abc import Iterator

import pytest

from tests.packaging.distributions import Distributions, new_distributions
from tests.packaging.installations import Case, Installation, cases, new_installation


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option to test every interpreter, with the newest and with the oldest libraries."""
    parser.addoption("--every-python", action="store_true", help="install with each interpreter")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests that need an installation once for each case."""
    if "case" in metafunc.fixturenames:
        # The option is defined only if this directory is among pytest's arguments.
        every = metafunc.config.getoption("--every-python", default=False)
        only_lowest = metafunc.definition.get_closest_marker("lowest") and not every
        chosen = [case for case in cases(every=every) if case.lowest or not only_lowest]
        metafunc.parametrize("case", chosen, ids=str, scope="module")


@pytest.fixture(scope="session")
def distributions() -> Iterator[Distributions]:
    """Return the sdist and the wheels."""
    with new_distributions() as made:
        yield made


@pytest.fixture(scope="module")
def installed(case: Case, distributions: Distributions) -> Iterator[Installation]:
    """Return a virtual environment with only the wheel and its dependencies."""
    with new_installation(case, str(distributions.wheel)) as made:
        yield made
