"""Which instance a checkout has, and which ports it leases: real worktrees of Git, no server."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from huleedu_tasks.app import App
from huleedu_tasks.compose.docker_compose import Project
from huleedu_tasks.compose.instance_override import _require_only, override_text
from huleedu_tasks.config.worktree import exists, linked_worktree
from huleedu_tasks.db.instance_list import Instances, _ranges
from huleedu_tasks.errors import ConfigurationError, ServerError
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.instances.leases import leases, renew
from huleedu_tasks.report import Fact
from huleedu_tasks.servers.protocol import EMBEDDED_DIRECTORY
from tests.support.git import add_worktree, commit_all, git
from tests.support.monorepo import scratch_directory

SERVICES = [{"name": "a", "port": 1}, {"name": "b", "port": 2}]
LOGIN = "HULEEDU_DB_USER=u\nHULEEDU_DB_PASSWORD=p\n"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HULEEDU_INSTANCE", "HULEEDU_ENVIRONMENT", "HULEEDU_PROVIDER"):
        monkeypatch.delenv(name, raising=False)


def repository(root: Path) -> Path:
    """Make a repository with a registry of two services, and a `.env` that Git ignores."""
    root.mkdir(parents=True)
    (root / "services.json").write_text(json.dumps({"services": SERVICES}))
    (root / ".gitignore").write_text(".env\n")
    (root / ".env").write_text(LOGIN)
    commit_all(root)
    return root


@pytest.fixture
def main() -> Iterator[Path]:
    """Make a repository that, if root runs the tests, the account of the servers may enter."""
    directory = scratch_directory("instances")
    yield repository(directory / "main")
    shutil.rmtree(directory)


def ports(root: Path, **options: bool) -> tuple[int, ...]:
    return tuple(service.port for service in App(start=root, **options).registry.services)


def instance(root: Path) -> Instance:
    found = App(start=root).instance
    assert found
    return found


def test_a_plain_clone_has_no_instance_and_writes_nothing(main: Path) -> None:
    assert linked_worktree(main) is None
    assert App(start=main).instance is None
    assert ports(main) == (1, 2)
    assert not (main / ".huleedu").exists()


def test_a_worktree_has_ports_of_its_own_which_stay(main: Path) -> None:
    one, two = (add_worktree(main, name) for name in ("one", "two"))
    first = ports(one)
    assert {*first}.isdisjoint({*ports(two), 1, 2})
    assert ports(one / "..//one") == first
    assert [lease.name for lease in leases(main / ".huleedu")] == ["one", "two"]
    assert App(start=one).state.parent == main / ".huleedu/instances"


def test_a_worktree_without_a_registry_does_not_use_that_of_the_main_worktree(main: Path) -> None:
    git(main, "worktree", "add", "--quiet", "inside")
    inside = main / "inside"
    (inside / "services.json").unlink()
    assert App(start=inside).registry_path == inside / "services.json"
    with pytest.raises(ConfigurationError):
        ports(inside)


def test_a_dry_run_leases_no_port(main: Path) -> None:
    one = add_worktree(main, "one")
    assert ports(one, dry_run=True) == ports(one, dry_run=True)
    assert not (main / ".huleedu").exists()
    assert ports(one) == ports(one, dry_run=True)


def test_a_new_service_gets_a_port_and_the_others_keep_theirs(main: Path) -> None:
    one = add_worktree(main, "one")
    before = ports(one)
    more = [*SERVICES, {"name": "c", "port": 3}]
    (one / "services.json").write_text(json.dumps({"services": more}))
    after = ports(one)
    assert after[:2] == before
    assert after[2] not in before


def test_other_ports_are_leased_on_request(main: Path) -> None:
    one = add_worktree(main, "one")
    before = ports(one)
    app = App(start=one)
    renew(app.stated_registry, instance(one))
    assert {*ports(one)}.isdisjoint(before)


def test_a_moved_worktree_keeps_its_instance_and_a_locked_one_exists(main: Path) -> None:
    one = add_worktree(main, "one")
    before = ports(one)
    git(main, "worktree", "move", "../one", "../moved")
    moved = main.with_name("moved")
    (lease,) = leases(main / ".huleedu")
    assert lease.place == str(moved)
    assert ports(moved) == before
    git(main, "worktree", "lock", "../moved")
    directory = instance(moved).git_directory
    assert directory
    moved.rename(main.with_name("unmounted"))
    assert exists(directory)
    git(main, "worktree", "unlock", "../moved")
    assert not exists(directory)


def test_a_moved_repository_keeps_the_data_of_its_worktrees(main: Path) -> None:
    ports(add_worktree(main, "one"))
    moved = main.rename(main.with_name("moved"))
    git(moved, "worktree", "repair", "../one")
    instances = Instances(home=moved / ".huleedu", current=None, environment={})

    def pruned() -> Mapping[str, Fact]:
        (row,) = asyncio.run(instances.prune(dry_run=False)).rows
        return row

    kept = pruned()
    assert (kept["exists"], kept["result"]) == (True, "kept")
    # Neither is the data of a server removed that was started in the previous place.
    (lease,) = leases(moved / ".huleedu")
    data = lease.directory / f"{EMBEDDED_DIRECTORY}/postgresql-15/a_db/data"
    data.mkdir(parents=True)
    program = main.with_name("postgres")
    program.symlink_to(shutil.which("sleep") or "")
    shutil.rmtree(lease.checkout)
    with subprocess.Popen([program, "60"], cwd=data) as server:
        (data / "postmaster.pid").write_text(f"{server.pid}\n")
        refused = pruned()
        server.kill()
    assert "[instance-not-proven]" in str(refused["result"])
    assert pruned()["result"] == "removed"
    assert not lease.directory.exists()
    left = lease.directory.parent / ".removed/killed"
    left.mkdir()
    assert asyncio.run(instances.prune(dry_run=False)).rows == ()
    assert not left.exists()


def test_a_worktree_that_was_moved_with_its_repository_exists(main: Path) -> None:
    git(main, "worktree", "add", "--quiet", "inside")
    ports(main / "inside")
    moved = main.rename(main.with_name("moved"))
    git(moved, "worktree", "repair", "inside")
    (lease,) = leases(moved / ".huleedu")
    assert lease.has_checkout
    git(moved, "worktree", "remove", "--force", "inside")
    assert not lease.has_checkout


@pytest.mark.parametrize("layout", ["bare", "relative", "submodule", "separate"])
def test_worktrees_of_every_layout_are_recognised(main: Path, layout: str) -> None:
    git(main.parent, "clone", "--quiet", "--bare", str(main), "bare.git")
    bare = main.with_name("bare.git")
    if layout == "bare":
        git(bare, "worktree", "add", "--quiet", "../one")
        found = linked_worktree(main.with_name("one"))
        assert found
        assert (found.main, found.is_bare) == (bare, True)
        assert found.in_main(found.root / "services") == bare
        return
    if layout == "separate":
        git(main, "init", "--quiet", "--separate-git-dir", "../separate")
        git(main, "worktree", "add", "--quiet", "../one")
        # As Git writes it for a submodule.
        git(main, "config", "core.worktree", "../main")
        found = linked_worktree(main.with_name("one"))
        assert found
        assert (found.main, found.is_bare) == (main, False)
        return
    pointer = main.with_name("there")
    pointer.mkdir()
    if layout == "submodule":
        (pointer / ".git").write_text("gitdir: ../main/.git\n")
        assert linked_worktree(pointer) is None
        return
    add_worktree(main, "one")
    (pointer / ".git").write_text("gitdir: ../main/.git/worktrees/one\n")
    (pointer / "below").mkdir()
    found = linked_worktree(pointer / "below")
    assert found
    assert (found.root, found.main) == (pointer, main)
    # Also if the branch of the main worktree does not have the directory.
    assert found.in_main(pointer / "below") == main / "below"


def test_a_name_is_an_instance_of_its_checkout_and_off_is_none(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkouts = [main, add_worktree(main, "one"), repository(main.parent / "other/main")]
    monkeypatch.setenv("HULEEDU_INSTANCE", "e2e")
    found = [instance(checkout) for checkout in checkouts]
    assert {one.name for one in found} == {"e2e"}
    assert len({one.project for one in found}) == len({one.directory for one in found}) == 3
    assert "HULEEDU_INSTANCE (environment)" in found[1].reason
    monkeypatch.setenv("HULEEDU_INSTANCE", "off")
    assert [ports(checkout) for checkout in checkouts] == [(1, 2)] * 3
    assert App(start=checkouts[1]).state == checkouts[1] / ".huleedu"


@pytest.mark.parametrize("name", ["../x", "A", "a" * 31, "-a", "a-", "a b", "é", "a\n", "a.b"])
def test_an_odd_name_is_refused(main: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HULEEDU_INSTANCE", name)
    with pytest.raises(ConfigurationError) as raised:
        _ = App(start=main).registry
    assert [finding.code for finding in raised.value.findings] == ["instance-name-invalid"]


@pytest.mark.parametrize(
    "variables", [{"HULEEDU_ENVIRONMENT": "production"}, {"HULEEDU_PROVIDER": "existing"}]
)
def test_production_and_existing_servers_have_no_instances(
    main: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = add_worktree(main, "one")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ports(one) == (1, 2)
    assert App(start=one).ignored_instance == ""
    monkeypatch.setenv("HULEEDU_INSTANCE", "e2e")
    app = App(start=one)
    assert app.instance is None
    assert app.state == one / ".huleedu"
    assert app.ignored_instance.startswith("HULEEDU_INSTANCE=e2e is ignored: ")


def test_a_worktree_without_env_reads_that_of_the_main_worktree(main: Path) -> None:
    one = add_worktree(main, "one")
    app = App(start=one)
    assert app.settings.user == "u"
    assert app.settings.value("HULEEDU_DB_USER").source == f"{main / '.env'} line 1"
    (one / ".env").write_text("HULEEDU_DB_USER=own\n")
    assert App(start=one).settings.value("HULEEDU_DB_USER").source == ".env line 1"
    assert App(start=one).settings.get("HULEEDU_DB_PASSWORD") == ""


def test_databases_from_before_it_had_an_instance_are_named(main: Path) -> None:
    one = add_worktree(main, "one")
    (one / ".huleedu/embedded").mkdir(parents=True)
    assert f"{one / '.huleedu'}: HULEEDU_INSTANCE=off uses them" in instance(one).reason


def test_a_state_directory_of_the_user_is_that_of_the_main_worktree(main: Path) -> None:
    one = add_worktree(main, "one")
    (main / ".env").write_text(f"{LOGIN}HULEEDU_STATE_DIR=own/state\n")
    assert App(start=one).state.parent == main / "own/state/instances"
    (main / ".env").write_text(f"{LOGIN}HULEEDU_STATE_DIR={main.parent}/shared\n")
    assert App(start=one).state.parent == main.parent / "shared/instances"


def test_a_damaged_lease_is_reported(main: Path) -> None:
    one = add_worktree(main, "one")
    ports(one)
    instance(one).lease.write_text('{"ports": {"a_db":')
    with pytest.raises(ServerError) as raised:
        ports(one)
    assert raised.value.code == "lease-unreadable"


def test_the_override_replaces_what_two_projects_cannot_share() -> None:
    def volume(kind: str, target: str, *, read_only: bool = False) -> dict[str, object]:
        return {"type": kind, "target": target, "read_only": read_only}

    volumes = [
        volume("bind", "/docker-entrypoint-initdb.d"),
        volume("bind", "/backups"),
        {**volume("bind", "/etc/postgresql.conf"), "source": __file__},
        volume("volume", "/var/lib/postgresql/data"),
        volume("volume", "/certificates", read_only=True),
        volume("tmpfs", "/tmp"),
    ]
    services = {"a$db": {"volumes": volumes}}
    project = Project(name="p", services=services, hashes={})
    lines = override_text(project, {"a$db": 20001, "gone_db": 20002}).splitlines()
    assert lines[1:] == [
        "services:",
        '  "a$$db":',
        "    container_name: !reset null",
        "    network_mode: !reset null",
        "    networks: !override {instance: {}}",
        '    ports: !override ["127.0.0.1:20001:5432"]',
        '    volumes: ["a$$db_instance_1:/backups", "a$$db_instance_2:/var/lib/postgresql/data"]',
        "networks:",
        "  instance: {}",
        "volumes:",
        '  "a$$db_instance_1": {}',
        '  "a$$db_instance_2": {}',
    ]


def test_an_override_that_compose_does_not_apply_is_reported() -> None:
    ports = [{"target": 5432, "published": number} for number in ("5433", "20001")]
    project = Project(name="p", services={"a_db": {"ports": ports}}, hashes={})
    with pytest.raises(ServerError) as raised:
        _require_only(project, "a_db", 20001)
    assert raised.value.code == "compose-too-old"
    assert "'a_db' publishes 5433, 20001 instead of 20001" in raised.value.message


@pytest.mark.parametrize(
    ("numbers", "shown"), [([], ""), ([3], "3"), ([4, 2, 3, 7], "2-4, 7"), ([1, 3], "1, 3")]
)
def test_ports_are_shown_as_ranges(numbers: list[int], shown: str) -> None:
    assert _ranges(numbers) == shown
