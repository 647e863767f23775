"""The tasks as Invoke shows them: one line each, every flag spelled out."""

import re
from typing import Any

import pytest
from invoke.parser.argument import Argument
from invoke.tasks import Task

from huleedu_tasks.cli import namespace
from huleedu_tasks.cli.command import LETTERS
from tests.support.tasks import ARGUMENTS, TASKS

KINDS = {"service": list, "confirm": list, "json": bool, "dry_run": bool, "jobs": str}
EVERY_ARGUMENT = {
    f"{name} --{argument.name}": argument
    for name, arguments in ARGUMENTS.items()
    for argument in arguments
}
LONGEST = 60


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_line_in_the_list_is_a_short_imperative_sentence(task: Task[Any]) -> None:
    line = (task.__doc__ or "").partition("\n")[0]
    assert 0 < len(line) <= LONGEST
    assert re.fullmatch(r"[A-Z][a-z]+,? .*[^.]\.", line)
    assert not line.partition(" ")[0].endswith(("s", "ed", "ing"))


def test_every_flag_is_explained_and_spelled_out() -> None:
    assert len(EVERY_ARGUMENT) > len(TASKS)
    for flag, argument in EVERY_ARGUMENT.items():
        # Invoke itself verifies that every help text belongs to a flag.
        assert (argument.help or "").endswith("."), flag
        assert letters_of(argument) <= {*LETTERS.get(str(argument.name), "")}, flag
        assert argument.positional is (argument.name == "name"), flag


def letters_of(argument: Argument) -> set[str]:
    """Return the short forms of a flag."""
    return {name for name in argument.names if len(name) == 1}


def test_flags_of_one_name_are_of_one_kind() -> None:
    for flag, argument in EVERY_ARGUMENT.items():
        assert argument.kind is KINDS.get(str(argument.name), argument.kind), flag


@pytest.mark.parametrize("collection", namespace.collections.values(), ids=namespace.collections)
def test_every_collection_says_what_it_is_about(collection: object) -> None:
    assert (collection.__doc__ or "").strip().endswith(".")


def test_every_collection_of_the_contract_is_there() -> None:
    assert {"db", "env", "prod", "services"} <= set(namespace.collections)
