"""The fixtures, and the factory that makes a fixture for one service."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import pytest

from huleedu_tasks.testing.database import ServiceDatabase
from huleedu_tasks.testing.failures import failure

if TYPE_CHECKING:
    from huleedu_tasks.testing.session import Session

Scope = Literal["session", "package", "module", "class", "function"]
OPTION = "huleedu_services"
FRESH = "--huleedu-fresh"
SESSION: "pytest.StashKey[Session]" = pytest.StashKey()
# The code of the error that the first test with a database has reported.
_REFUSED: pytest.StashKey[str] = pytest.StashKey()
# The services of all factories, which are prepared together: name, and whether it is seeded.
declared: dict[tuple[str, bool], None] = {}


def service_database(name: str, *, scope: Scope = "function", seeded: bool = False) -> Any:
    """Return a fixture with the database of a service, for a `conftest.py`.

    Args:
        name: The name of the service in the registry.
        scope: How long a database exists: one for each test, class, module, package or session.
        seeded: Whether the service's seeds are applied.
    """
    declared[name, seeded] = None

    @pytest.fixture(scope=scope)
    def database(request: pytest.FixtureRequest) -> Iterator[ServiceDatabase]:
        """Return a new database of the service; its URL is in the service's variables."""
        session = _session(request.config)
        session.prepare(declared)
        with session.database(name, seeded=seeded) as created:
            yield created

    return database


class Databases:
    """The databases of one test, by the names of their services; each is created at first use.

    Args:
        create: Creates the database of a service.
        leader: Returns the service for which a database is created that several services share.
    """

    def __init__(
        self, create: Callable[[str], ServiceDatabase], leader: Callable[[str], str]
    ) -> None:
        self._create = create
        self._leader = leader
        self._created: dict[str, ServiceDatabase] = {}

    def __getitem__(self, name: str) -> ServiceDatabase:
        """Return the database of a service."""
        leader = self._leader(name)
        if leader not in self._created:
            self._created[leader] = self._create(leader)
        return self._created[leader]


@pytest.fixture
def huleedu_databases(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Return the databases of all services: `huleedu_databases["orders"].url`."""
    session = _session(request.config)
    names = session.names(request.config.getini(OPTION))
    session.prepare((name, False) for name in names)
    with ExitStack() as created:
        yield Databases(
            lambda name: created.enter_context(session.database(name, seeded=False)),
            session.leader,
        )


@pytest.fixture
def databases(huleedu_databases: Databases) -> Databases:
    """Return the databases of all services, under a shorter name."""
    return huleedu_databases


def _session(config: pytest.Config) -> "Session":
    """Return the databases of this worker, which are begun at their first use."""
    if _REFUSED in config.stash:
        pytest.skip(f"no databases [{config.stash[_REFUSED]}]; the error of one test says why")
    if SESSION not in config.stash:
        import secrets

        from huleedu_tasks.errors import HuleEduError
        from huleedu_tasks.testing.runs import token_of_run
        from huleedu_tasks.testing.session import Session

        worker = getattr(config, "workerinput", {})
        try:
            config.stash[SESSION] = Session(
                start=config.rootpath,
                token=token_of_run(worker.get("testrunuid") or secrets.token_hex()),
                worker=worker.get("workerid", "main"),
                fresh=config.getoption(FRESH),
            )
        except HuleEduError as error:
            config.stash[_REFUSED] = error.code
            raise failure(error) from None
    return config.stash[SESSION]
