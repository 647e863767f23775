"""One setting: its variable, its parser, its default and its meaning."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from huleedu_tasks.config.hosts import host_problem
from huleedu_tasks.config.url_parts import LAST_PORT

T = TypeVar("T")
Choice = TypeVar("Choice", bound=StrEnum)

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# The value of HULEEDU_INSTANCE for no instance.
NO_INSTANCE = "off"
_INSTANCE = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class InvalidValue(ValueError):
    """A value that a setting cannot have.

    Args:
        problem: What is wrong with the value, for a finding.
        code: The stable code of the finding; an empty string for none.
    """

    def __init__(self, problem: str, *, code: str = "") -> None:
        super().__init__(problem)
        self.code = code


class Values(Protocol):
    """Where the values of settings are read from."""

    @property
    def root(self) -> Path:
        """The directory of the registry."""

    def get(self, name: str) -> str:
        """Return a variable's value, or its default; an empty string if it has neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Generic[T]):
    """A setting, and the attribute of `Settings` that has its value.

    Attributes:
        name: The environment variable, with the default prefix.
        purpose: Its meaning, as the reference of the environment states it.
        parse: Returns the value of a string, which is empty if the setting has no value; raises
            `InvalidValue`.
        default: The string that counts if it is not set.
        secret: Whether it is a password.
        process_only: Whether it is read from the process environment only, not from `.env`.
    """

    name: str
    purpose: str
    parse: Callable[[str], T]
    default: str = ""
    secret: bool = False
    process_only: bool = False

    @overload
    def __get__(self, values: None, owner: type) -> Self: ...

    @overload
    def __get__(self, values: Values, owner: type) -> T: ...

    def __get__(self, values: Values | None, owner: type) -> Self | T:
        """Return the value; the setting itself if it is accessed on the class."""
        return self if values is None else self.parse(values.get(self.name))


AnySetting = Setting[Any]


class PathSetting(Setting[Path | None]):
    """A setting with a path, which is relative to the directory of the registry."""

    @overload
    def __get__(self, values: None, owner: type) -> Self: ...

    @overload
    def __get__(self, values: Values, owner: type) -> Path | None: ...

    def __get__(self, values: Values | None, owner: type) -> Self | Path | None:
        """Return the path; None if it is not set."""
        if values is None:
            return self
        stated = self.parse(values.get(self.name))
        return values.root / stated if stated else None


def one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    """Return a parser of the values of an enumeration, in any case."""

    def parse(text: str) -> Choice:
        return choices(_one_of([*choices], text))

    return parse


def truth(text: str) -> bool:
    """Parse a boolean."""
    return _TRUTH[_one_of([*_TRUTH], text)]


def integer(text: str) -> int:
    """Parse an integer of at least 1."""
    # int() accepts 5_432 and digits of other scripts; parsers of URLs do not.
    if not (text.isascii() and text.isdecimal()):
        raise InvalidValue(f"{text!r} is not an integer")
    return int(_number(text, at_least=1))


def processors(text: str) -> int:
    """Parse an integer of at least 1; the number of processors if it is not set."""
    return integer(text) if text else os.cpu_count() or 1


def seconds(text: str) -> float:
    """Parse a number of seconds of at least 1."""
    return _number(text, at_least=1)


def seconds_or_no_limit(text: str) -> float:
    """Parse a number of seconds; 0 is allowed."""
    return _number(text, at_least=0)


def path(text: str) -> Path | None:
    """Parse a path; None if it is not set."""
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError as error:
        raise InvalidValue("begins with ~ and a user who does not exist") from error


def host(text: str) -> str:
    """Parse a host name, an IP address, or the directory of a Unix socket."""
    if text and (problem := host_problem(text)):
        raise InvalidValue(problem, code="host-invalid")
    return text


def port(text: str) -> int:
    """Parse the number of a port."""
    number = integer(text)
    if number > LAST_PORT:
        raise InvalidValue(f"{text!r} is greater than {LAST_PORT}")
    return number


def ssl_mode(text: str) -> str:
    """Parse a TLS mode of libpq."""
    # Compared literally, because it is put into a URL unchanged.
    if text and text not in SSL_MODES:
        raise InvalidValue(f"{text!r} is not one of {', '.join(SSL_MODES)}")
    return text


def user(text: str) -> str:
    """Parse the name of a user, which does not end with a line break."""
    if text.endswith(("\n", "\r")):
        raise InvalidValue(f"{text!r} ends with a line break", code="setting-line-break")
    return text


def instance_name(text: str) -> str:
    """Parse the name of an instance, which becomes a part of paths and of a compose project."""
    if text and not _INSTANCE.fullmatch(text):
        raise InvalidValue(
            f"{text!r} is not a name of at most 30 lower-case letters, digits and hyphens between "
            "them",
            code="instance-name-invalid",
        )
    return text


def _one_of(choices: list[str], text: str) -> str:
    chosen = text.strip().lower()
    if chosen not in choices:
        raise InvalidValue(f"{text!r} is not one of {', '.join(choices)}")
    return chosen


def _number(text: str, *, at_least: int) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InvalidValue(f"{text!r} is not a number") from None
    # `nan` compares as false with any number, and is refused here too.
    if not number >= at_least:
        raise InvalidValue(f"{text!r} is not {at_least} or more")
    return number
