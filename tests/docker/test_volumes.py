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
    "above": {"volumes": [f"{{}}_db_data:{ABOVE}"]},
    "versioned": {"volumes": [f"{{}}_db_data:{ABOVE}"], "PGDATA": VERSIONED},
    "tmpfs": {"volumes": [], "tmpfs": [DATA]},
}


# The others resemble one of these: run all with `--every-combination`.
IN_CI = ("anonymous", "versioned", "tmpfs")


@pytest.fixture
def docked(request: pytest.FixtureRequest) -> Iterator[Docked]:
    """A service for each kind of mount."""
    kinds = KINDS if request.config.getoption("--every-combination") else IN_CI
    with new_docked(*kinds) as made:
        for kind in kinds:
            stated = dict(KINDS[kind])
            environment = made.defined[f"{kind}_db"]["environment"]
            environment["PGDATA"] = stated.pop("PGDATA", DATA)
            stated["volumes"] = [volume.format(kind) for volume in stated["volumes"]]
            made.define(**{f"{kind}_db": {**stated, "environment": environment}})
        yield made


def test_a_reset_works_with_each_kind_of_mount(docked: Docked) -> None:
    names = [entry["name"] for entry in docked.services]
    lives = set()
    for arguments in ([], ["--volumes"]):
        ran = docked.invoke("db.reset", *arguments)
        assert ran.code == 0, ran.out + ran.err
        for name in names:
            assert ask(docked.url(name), NOTES) == [("first",), ("second",)], name
            lives.add((name, identifier(docked, f"{name}_db")))
            ask(docked.url(name), "INSERT INTO note VALUES (99, 'by hand')")
    assert len(lives) == 2 * len(names)


def identifier(docked: Docked, server: str) -> str:
    """Return the identifier in a server's data directory, which only `initdb` changes."""
    data = docked.defined[server]["environment"]["PGDATA"]
    command = f"pg_controldata {data} | grep identifier"
    return inside(docked.container(server), "sh", "-c", command)
