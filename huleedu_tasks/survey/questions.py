"""What is known of a field, and what has to be asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huleedu_tasks.survey.container import Container
from huleedu_tasks.survey.matching import Candidate

MARK = "FIXME:"
Value = str | int | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
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
    reasons = {each.server.name: "; ".join(each.reasons) for each in likely}
    shown_ones = [f"{server.port or 'no port'} ({server.name})" for server in servers]
    return Question(
        field="port",
        marker=f"{MARK} {' or '.join(shown_ones)}?",
        choices=tuple(
            Choice(value=server.name, label=f"{text}: {reasons[server.name]}")
            for server, text in zip(servers, shown_ones, strict=True)
        ),
    )


def which_at_all(servers: Sequence[Container]) -> Question:
    """Ask which server, where none fits."""
    return Question(
        field="port",
        marker=f"{MARK} which port? No PostgreSQL server of the compose files fits.",
        choices=tuple(
            Choice(value=each.name, label=f"{each.port or 'no port'} ({each.name})")
            for each in servers
        ),
    )


def which_database(named: Mapping[str, str], server: Container | None) -> Question:
    """Ask which database, of those that are named or made somewhere."""
    choices = tuple(Choice(value=name, label=f"{name}: {place}") for name, place in named.items())
    if named:
        marker = f"{MARK} {' or '.join(named)}?"
    else:
        marker = f"{MARK} which database{f' of {server.name}' if server else ''}?"
    return Question(field="database", marker=marker, choices=choices)
