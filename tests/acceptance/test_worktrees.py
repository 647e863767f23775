"""Linked worktrees of Git: each has a fleet of databases of its own, beside the main one.

One walk through the life of two worktrees; each test begins where the one before has ended.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.support.git import add_worktree, commit_all, git
from tests.support.monorepo import (
    PASSWORD,
    Monorepo,
    clean_environment,
    new_monorepo,
    stop_server,
)
from tests.support.postgres import ask

NAMES = ("alpha", "beta")
COUNT = "SELECT count(*) FROM note"
# Stands for direnv, whose function it is.
DIRENV = "watch_file() { :; }\n"


@dataclass
class Family:
    """A main worktree and two linked ones."""

    main: Monorepo
    one: Monorepo
    two: Monorepo

    def instances(self) -> dict[str, dict[str, Any]]:
        """Return what `db.instances` lists, by name."""
        listed = self.main.invoke("db.instances", "--json").json["instances"]
        return {str(row["name"]): row for row in listed}

    def ports(self, name: str) -> list[int]:
        """Return the ports in the lease of an instance, of `alpha` and `beta`."""
        (lease,) = self.main.state.glob(f"instances/{name}-*/lease.json")
        held = json.loads(lease.read_text())["ports"]
        return [held["alpha_db"], held["beta_db"]]


def url(main: Monorepo, port: int, database: str = "huleedu_alpha") -> str:
    """Return the URL of a database on the server at a port, for asyncpg."""
    return main.url("alpha", database=database).replace(f":{main.port('alpha')}/", f":{port}/")


def exported(checkout: Monorepo, script: str) -> str:
    """Run a shell script in a service's directory; return its output."""
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=checkout.root,
        env={**clean_environment(), **checkout.environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@contextmanager
def family() -> Iterator[Family]:
    """Make a repository whose state is in its usual place, and two linked worktrees."""
    with new_monorepo(NAMES) as main:
        main.environment.pop("HULEEDU_STATE_DIR")
        main.state = main.root / ".huleedu"
        main.write(".gitignore", ".env\n__pycache__/\n")
        commit_all(main.root)
        one, two = (replace(main, root=add_worktree(main.root, name)) for name in ("one", "two"))
        try:
            yield Family(main=main, one=one, two=two)
        finally:
            for data in main.state.glob("**/postgresql-*/*/data"):
                stop_server(data)


@pytest.fixture(scope="module")
def walk() -> Iterator[Family]:
    """Reset the main databases, and then those of both worktrees at the same moment."""
    with family() as made:
        assert made.main.invoke("db.reset").code == 0
        for name in NAMES:
            ask(made.main.url(name), "INSERT INTO note VALUES (3, 'mine')")
        started = [checkout.start("db.reset", "--json") for checkout in (made.one, made.two)]
        for process in started:
            out, err = process.communicate(timeout=180)
            assert process.returncode == 0, err
            reason = f"linked worktree of {made.main.root}"
            assert json.loads(out)["instance"]["reason"] == reason
        yield made


def test_no_two_fleets_share_a_port_or_a_row(walk: Family) -> None:
    own = [[walk.main.port(name) for name in NAMES], walk.ports("one"), walk.ports("two")]
    assert len({port for fleet in own for port in fleet}) == 6
    counts = [ask(url(walk.main, port), COUNT) for port, _ in own]
    assert counts == [[(3,)], [(2,)], [(2,)]]
    # Neither has written anything into its worktree.
    assert not (walk.one.root / ".huleedu").exists()
    assert not (walk.one.root / ".env").exists()


def test_only_a_worktree_is_said_to_have_an_instance(walk: Family) -> None:
    one = walk.one.invoke("db.status")
    assert f"instance one: linked worktree of {walk.main.root})" in one.err.splitlines()[-1]
    assert "instance" not in walk.main.invoke("db.status", "--json").json
    shown = {row["variable"]: row for row in walk.one.invoke("env.show", "--json").json["settings"]}
    assert shown["HULEEDU_INSTANCE"]["value"] == "one"
    assert str(walk.main.root) in shown["HULEEDU_DB_USER"]["source"]


def test_the_exported_variables_make_a_service_and_psql_follow(walk: Family) -> None:
    (port, _) = walk.ports("one")
    show = '"$PYTHON" -c "import sys; sys.path.insert(0, \'services/alpha_service\'); '
    show += 'from config import database_url; print(database_url())"'
    text = walk.one.invoke("env.export", "--direnv").out
    assert PASSWORD not in text
    walk.one.write(".envrc", text)
    libpq = 'eval "$("$PYTHON" -m invoke env.export --service alpha)"; echo $PGPORT $PGDATABASE'
    said = exported(walk.one, f"{DIRENV}. ./.envrc; {show}; {libpq}").splitlines()
    walk.one.path(".envrc").unlink()
    assert f"@localhost:{port}/huleedu_alpha" in said[0]
    assert said[1] == f"{port} huleedu_alpha"


def test_exported_variables_of_another_checkout_are_refused(walk: Family) -> None:
    (port, _) = walk.ports("one")
    variables = {"ALPHA_SERVICE_DATABASE_URL": url(walk.main, port)}
    for other in (walk.main, walk.two):
        ran = other.invoke("db.reset", env=variables)
        assert ran.code == 3
        assert "[override-mismatch]" in ran.err
    testing = {"HULEEDU_ENVIRONMENT": "testing"}
    assert walk.one.invoke("db.reset", "--service", "alpha", env=testing).code == 0
    assert ask(url(walk.main, port, database="huleedu_alpha_test"), COUNT) == [(2,)]


def test_a_port_that_another_process_has_taken_is_replaced_on_request(walk: Family) -> None:
    before = walk.ports("one")
    ask(url(walk.main, before[0]), "INSERT INTO note VALUES (4, 'of one')")
    assert walk.one.invoke("db.down", "--service", "alpha").code == 0
    with socket.create_server(("127.0.0.1", before[0])):
        ran = walk.one.invoke("db.up")
        assert ran.code == 1
        assert "[port-in-use]" in ran.out
        assert "db.instances --new-ports" in ran.err
        assert walk.one.invoke("db.instances", "--new-ports").code == 0
        # The other server is moved, although it runs.
        assert walk.one.invoke("db.up").code == 0
    after = walk.ports("one")
    assert {*after}.isdisjoint({*before, *walk.ports("two")})
    assert ask(url(walk.main, after[0]), COUNT) == [(3,)]


def test_an_instance_without_its_worktree_is_pruned_and_no_other(walk: Family) -> None:
    git(walk.main.root, "worktree", "remove", "--force", "../two")
    listed = walk.instances()
    assert {name: row["exists"] for name, row in listed.items()} == {"one": True, "two": False}
    assert {row["running"] for row in listed.values()} == {2}
    lost = walk.ports("two")
    dry = pruned(walk.main, "--dry-run")
    assert dry == {"one": "kept", "two": "dry run: would be removed"}
    assert all(map(is_served, lost))
    assert pruned(walk.main) == {"one": "kept", "two": "removed"}
    assert not any(map(is_served, lost))
    assert walk.instances().keys() == {"one"}
    assert len([*walk.main.state.glob("instances/*/embedded")]) == 1
    assert ask(url(walk.main, walk.ports("one")[0]), COUNT) == [(3,)]
    assert ask(walk.main.url("alpha"), COUNT) == [(3,)]


def pruned(checkout: Monorepo, *arguments: str) -> Mapping[str, str]:
    """Prune, and return the result for each instance."""
    ran = checkout.invoke("db.instances", "--prune", "--json", *arguments)
    assert ran.code == 0, ran.err
    return {row["name"]: row["result"] for row in ran.json["instances"]}


def is_served(port: int) -> bool:
    """Whether a process listens on a port."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
