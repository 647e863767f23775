"""What is known of a field, and what has to be asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huleedu_tasks.compose.database_service import Container
from huleedu_tasks.discovery.matching import Candidate

TAG = "FIXME:"
Value = str | int | list[str] | dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The value of a field, and where it is known from."""

    value: Value
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One answer to a question, and what speaks for it."""

    value: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A field that could not be settled.

    Attributes:
        marker: What stands in the registry as long as nobody has answered.
    """

    field: str
    marker: str
    choices: tuple[Choice, ...] = ()


def which_of(servers: Sequence[Container], likely: Sequence[Candidate]) -> Question:
    """Ask which of the servers that fit alike."""
    reasons = {candidate.server.name: "; ".join(candidate.reasons) for candidate in likely}
    shown_ones = [f"{server.port or 'no port'} ({server.name})" for server in servers]
    return Question(
        field="port",
        marker=f"{TAG} {' or '.join(shown_ones)}?",
        choices=tuple(
            Choice(value=server.name, label=f"{text}: {reasons[server.name]}")
            for server, text in zip(servers, shown_ones, strict=True)
        ),
    )


def which_at_all(servers: Sequence[Container], free_port: int) -> Question:
    """Ask which server, where none fits.

    Args:
        servers: Those of the compose files.
        free_port: One that none of them has: embedded servers need no container.
    """
    own = Choice(value=str(free_port), label=f"{free_port}: a separate server, not in Compose")
    others = (
        Choice(value=server.name, label=f"{server.port or 'no port'} ({server.name})")
        for server in servers
    )
    return Question(
        field="port",
        marker=f"{TAG} which port? No PostgreSQL server in the compose files matches; "
        f"{free_port} is free.",
        choices=(own, *others),
    )


def which_port(server: Container, free_port: int) -> Question:
    """Ask for the port of a server that publishes none.

    Args:
        free_port: One that nothing in the repository uses.
    """
    return Question(
        field="port",
        marker=f"{TAG} {server.name} publishes no port on this machine. Which one? {free_port} is "
        "free.",
        choices=(
            Choice(value=str(free_port), label=f"{free_port}: publish it in the compose file"),
        ),
    )


def which_database(named: Mapping[str, str]) -> Question:
    """Ask which database, of those that are named or made somewhere."""
    choices = tuple(Choice(value=name, label=f"{name}: {place}") for name, place in named.items())
    return Question(field="database", marker=f"{TAG} {' or '.join(named)}?", choices=choices)
