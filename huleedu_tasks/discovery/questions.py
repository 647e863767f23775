"""The known value of a field, and the questions about unknown ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huleedu_tasks.compose.database_service import Container
from huleedu_tasks.discovery.matching import Candidate

TAG = "FIXME:"
Value = str | int | list[str] | dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The value of a field, and where it was found."""

    value: Value
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One possible answer to a question, with a label that gives the reason."""

    value: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A field whose value could not be determined.

    Attributes:
        marker: The value that the registry has until the user answers.
    """

    field: str
    marker: str
    choices: tuple[Choice, ...] = ()


def which_of(servers: Sequence[Container], likely: Sequence[Candidate]) -> Question:
    """Ask which server a service uses if several match equally well."""
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
    """Ask which server a service uses if none matches.

    Args:
        servers: The servers in the compose files.
        free_port: An unused port, for an embedded server, which needs no container.
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
        free_port: A port that the repository does not use.
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
    """Ask which database a service uses.

    Args:
        named: The possible names, each with the place where it was found.
    """
    choices = tuple(Choice(value=name, label=f"{name}: {place}") for name, place in named.items())
    return Question(field="database", marker=f"{TAG} {' or '.join(named)}?", choices=choices)
