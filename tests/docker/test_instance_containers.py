"""An instance has containers, ports, network and volumes of its own beside the main ones."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.docker import (
    DATA,
    IMAGE,
    PROJECT,
    SERVICE,
    Docked,
    database_service,
    engine,
    new_docked,
)
from tests.support.git import add_worktree, commit_all, git
from tests.support.monorepo import free_ports
from tests.support.postgres import ask

NAMES = ("alpha", "beta")
COUNT = "SELECT count(*) FROM note"


@pytest.fixture
def docked() -> Iterator[Docked]:
    """Two databases that two projects cannot have at once: named containers and volumes."""
    with new_docked() as made:
        stem = made.project
        for name, port in zip(NAMES, free_ports(2), strict=True):
            made.add_service(name, port)
            database = database_service(port, f"huleedu_{name}", f"{name}_db_data")
            made.define(**{f"{name}_db": {**database, "container_name": f"{stem}-{name}"}})
        volumes = {f"{name}_db_data": {"name": f"{stem}-{name}-data"} for name in NAMES}
        made.write_compose(made.defined, volumes=volumes)
        made.write(".gitignore", ".env\n")
        commit_all(made.root)
        yield made


def test_a_worktree_has_containers_of_its_own_which_are_pruned_with_it(docked: Docked) -> None:
    assert docked.invoke("db.reset").code == 0
    main = docked.lives()
    ask(docked.url("alpha"), "INSERT INTO note VALUES (3, 'mine')")
    root = add_worktree(docked.root, "feature")
    feature = Docked(root=root, state=docked.state, environment=docked.environment)
    (lease,) = _leases(feature)
    feature.project = lease["project"]
    try:
        ran = feature.invoke("db.reset")
        assert ran.code == 0, ran.err
        port = lease["ports"]["alpha_db"]
        assert feature.running() == {"alpha_db", "beta_db"}
        assert len(feature.volumes()) == 2
        own = docked.url("alpha").replace(f":{docked.port('alpha')}/", f":{port}/")
        assert ask(own, COUNT) == [(2,)]
        assert ask(docked.url("alpha"), COUNT) == [(3,)]
        assert docked.lives() == main
        # A second time nothing is created again.
        before = feature.lives()
        assert feature.invoke("db.reset").code == 0
        assert feature.lives() == before
        assert "listening" in feature.invoke_afresh("db.logs", "--service", "alpha").out
        # Its whole data is recreated, and no other's.
        assert feature.invoke("db.reset", "--volumes").code == 0
        assert feature.lives().keys() == before.keys()
        assert feature.lives() != before
        git(docked.root, "worktree", "remove", "--force", "../feature")
        _refuse_containers_of_another(docked, feature)
        pruned = docked.invoke("db.instances", "--prune", "--json")
        assert [row["result"] for row in pruned.json["instances"]] == ["removed"]
        assert (feature.containers(), feature.volumes()) == ({}, set())
        assert docked.lives() == main
        assert ask(docked.url("alpha"), COUNT) == [(3,)]
    finally:
        feature.remove()


def _leases(checkout: Docked) -> list[dict[str, Any]]:
    """Lease the ports of a checkout, and return all leases."""
    assert checkout.invoke("db.url").code == 0
    return [json.loads(path.read_text()) for path in checkout.state.glob("instances/*/lease.json")]


def _refuse_containers_of_another(docked: Docked, feature: Docked) -> None:
    """Prune while a container that is not the instance's own has the label of its project."""
    labels = {PROJECT: feature.project, SERVICE: "other"}
    other = engine().containers.create(IMAGE, labels=labels, tmpfs={DATA: ""})
    try:
        ran = docked.invoke("db.instances", "--prune")
        assert ran.code == 1
        assert "[instance-not-proven]" in ran.out
        assert feature.containers().keys() >= {"alpha_db", "beta_db"}
    finally:
        other.remove(force=True)
