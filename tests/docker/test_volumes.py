"""Resets, in place and with `--volumes`, for each kind of mount with a container's data."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.docker import DATA, Docked, inside, new_docked
from tests.support.postgres import ask

NOTES = "SELECT text FROM note ORDER BY text"
ABOVE = "/var/lib/postgresql"
# The path in the image of PostgreSQL 18.
VERSIONED = f"{ABOVE}/18/docker"
KINDS: dict[str, dict[str, Any]] = {
    "none": {"volumes": []},
    "anonymous": {"volumes": [DATA]},
    "above": {"volumes": [f"alpha_db_data:{ABOVE}"]},
    "versioned": {"volumes": [f"alpha_db_data:{ABOVE}"], "PGDATA": VERSIONED},
    "tmpfs": {"volumes": [], "tmpfs": [DATA]},
}


@pytest.fixture(scope="module")
def docked() -> Iterator[Docked]:
    with new_docked("alpha") as made:
        yield made


def define(docked: Docked, kind: str) -> None:
    stated = {"tmpfs": None, **KINDS[kind]}
    environment = docked.defined["alpha_db"]["environment"]
    environment["PGDATA"] = stated.pop("PGDATA", DATA)
    docked.remove()
    docked.define(alpha_db={**stated, "environment": environment})


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_works_with_each_kind_of_mount(docked: Docked, kind: str) -> None:
    define(docked, kind)
    lives = set()
    for arguments in ([], ["--volumes"]):
        ran = docked.invoke("db.reset", *arguments)
        assert ran.code == 0, ran.out + ran.err
        assert ask(docked.url("alpha"), NOTES) == [("first",), ("second",)]
        container = docked.container("alpha_db")
        data = docked.defined["alpha_db"]["environment"]["PGDATA"]
        identifier = inside(container, "sh", "-c", f"pg_controldata {data} | grep identifier")
        lives.add(identifier)
        ask(docked.url("alpha"), "INSERT INTO note VALUES (99, 'by hand')")
    assert len(lives) == 2
