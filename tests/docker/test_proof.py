"""The guard requires proof that a server belongs to this checkout before data is destroyed."""

from collections.abc import Iterator

import pytest

from tests.support.docker import DATA, IDLE, IMAGE, SCRIPTS, Docked, engine, new_docked
from tests.support.monorepo import PASSWORD, Monorepo, Ran, new_monorepo
from tests.support.observe import database
from tests.support.postgres import ask, can_listen, proxy

DESTRUCTIVE = [("db.reset",), ("db.reset", "--volumes")]
WRITING = [*DESTRUCTIVE, ("db.migrate",), ("db.seed",)]
SOME = [("db.reset", "--volumes"), ("db.migrate",)]
DIRECTORY = "com.docker.compose.project.working_dir"
PRODUCTION = 'huleedu-tasks {"environment": "production"}'


@pytest.fixture(scope="module")
def docked() -> Iterator[Docked]:
    with new_docked("alpha") as made:
        assert made.invoke("db.reset").code == 0
        yield made


@pytest.fixture(scope="module")
def foreign() -> Iterator[Monorepo]:
    """Another server with the same user, password and databases, such as production."""
    with new_monorepo(("alpha",)) as made:
        assert made.invoke("db.reset").code == 0
        yield made


def assert_refused(ran: Ran, *reasons: str) -> None:
    """Assert that the guard refused a command, with these reasons."""
    assert ran.code == 3, ran.out + ran.err
    for reason in reasons:
        assert reason in ran.out + ran.err


@pytest.mark.parametrize("command", SOME)
def test_a_tunnel_on_the_port_of_a_stopped_container_is_reported_and_not_used(
    docked: Docked, foreign: Monorepo, command: tuple[str, ...]
) -> None:
    before = database(foreign, "alpha")
    assert docked.invoke("db.down").code == 0
    port = docked.port("alpha")
    with proxy(port, foreign.port("alpha")):
        ran = docked.invoke(*command)
    assert ran.code == 1
    assert f"Port {port} is taken by pid" in ran.out
    assert database(foreign, "alpha") == before


def test_the_status_says_that_another_server_answers(docked: Docked, foreign: Monorepo) -> None:
    def detail() -> str:
        return str(docked.invoke("db.status", "--json").json["services"][0]["detail"])

    assert docked.invoke("db.up").code == 0
    assert detail() == ""
    assert docked.invoke("db.down").code == 0
    with proxy(docked.port("alpha"), foreign.port("alpha")):
        said = detail()
    assert said.startswith("not the docker server, but another one with its data in")
    assert any(str(data) in said for data in foreign.data_directories())


@pytest.mark.skipif(not can_listen("::1"), reason="this machine has no ::1")
def test_a_tunnel_beside_the_running_container_is_refused(
    docked: Docked, foreign: Monorepo
) -> None:
    """The container is published at ::1 only, so that 127.0.0.1 is free for a tunnel."""
    port, published = docked.port("alpha"), docked.defined["alpha_db"]["ports"]
    docked.define(alpha_db={"ports": [f"[::1]:{port}:5432"]})
    docked.up()
    before, lives, birth = database(foreign, "alpha"), docked.lives(), docked.birth("alpha_db")
    with proxy(port, foreign.port("alpha")):
        for command in (*WRITING, ("db.up",)):
            ran = docked.invoke(*command)
            assert_refused(ran, "another server than the container", docked.project)
    assert database(foreign, "alpha") == before
    assert (docked.lives(), docked.birth("alpha_db")) == (lives, birth)
    docked.define(alpha_db={"ports": published})


@pytest.mark.parametrize("command", [*SOME, ("db.down",)])
def test_another_checkouts_container_with_the_same_project_name_is_refused(
    docked: Docked, other: Docked, command: tuple[str, ...]
) -> None:
    assert docked.invoke("db.up").code == 0
    before, lives = database(docked, "alpha"), docked.lives()
    same_name = {"COMPOSE_PROJECT_NAME": docked.project}
    assert_refused(other.invoke(*command, env=same_name), f"belongs to the checkout {docked.root}")
    assert docked.lives() == lives
    assert database(docked, "alpha") == before


@pytest.fixture(scope="module")
def other() -> Iterator[Docked]:
    """Another checkout of the same monorepo."""
    with new_docked("alpha") as made:
        yield made


def test_another_checkouts_container_with_the_same_container_name_is_refused(
    other: Docked,
) -> None:
    fixed = f"{other.project}-fixed"
    other.define(alpha_db={"container_name": fixed})
    with new_docked("alpha") as first:
        first.define(alpha_db={"container_name": fixed})
        first.compose("create")
        lives = first.lives()
        for command in DESTRUCTIVE:
            reasons = (f"name {fixed} is taken", f"of the checkout {first.root}")
            assert_refused(other.invoke(*command), *reasons)
            assert first.lives() == lives
    other.define(alpha_db={"container_name": None})


def test_the_same_checkout_by_a_symbolic_link_is_accepted(docked: Docked) -> None:
    """Compose labels the container with the path as it was given, a symbolic link here."""
    link = docked.root.with_name("link")
    link.symlink_to(docked.root)
    docked.compose("rm", "--stop", "--force")
    docked.compose("--file", str(link / "docker-compose.yml"), "up", "--detach")
    assert docked.container("alpha_db").labels[DIRECTORY] == str(link)
    assert docked.invoke("db.reset").code == 0


def test_containers_and_volumes_with_similar_names_are_not_changed(docked: Docked) -> None:
    """One of them is a volume of the same project, without the data of a service."""
    client = engine()
    look_alike = f"{docked.project}-alpha"
    labels = {"com.docker.compose.project": look_alike, "com.docker.compose.service": "alpha_db"}
    volumes = [
        client.volumes.create(f"{look_alike}_alpha_db_data", labels=labels),
        client.volumes.create(f"{docked.project}_alpha_db_data_old"),
        client.volumes.create(
            f"{docked.project}_cache_data", labels={"com.docker.compose.project": docked.project}
        ),
    ]
    containers = [
        client.containers.run(
            IMAGE, IDLE["command"], tmpfs={DATA: ""}, detach=True, name=name, labels=given
        )
        for name, given in (
            (f"{look_alike}-alpha_db-1", labels),
            (f"{docked.project}-alpha_db-2", {}),
        )
    ]
    try:
        assert docked.invoke("db.reset", "--volumes", "db.down").code == 0
        for container in containers:
            container.reload()
            assert container.status == "running"
        for volume in volumes:
            volume.reload()
    finally:
        for container in containers:
            container.remove(force=True)
        for volume in volumes:
            volume.remove()


@pytest.mark.combinations(
    command=[*WRITING, ("db.up",), ("db.down",)],
    host=["tcp://127.0.0.1:2375", "ssh://user@example.org"],
)
def test_an_engine_over_a_network_is_refused(
    other: Docked, command: tuple[str, ...], host: str
) -> None:
    ran = other.invoke(*command, env={"DOCKER_HOST": host})
    assert_refused(ran, f"{host} is reached over a network", "Unset DOCKER_HOST")


@pytest.fixture
def tagged(docked: Docked) -> Iterator[Docked]:
    """A server with a second database, tagged as production."""
    admin = docked.url("alpha", database="postgres")
    assert docked.invoke("db.up").code == 0
    ask(admin, "CREATE DATABASE elsewhere", f"COMMENT ON DATABASE elsewhere IS '{PRODUCTION}'")
    yield docked
    ask(admin, "DROP DATABASE elsewhere")


@pytest.mark.parametrize("password", [PASSWORD, "one that was lost"])
def test_a_volume_with_another_environments_database_is_refused(
    tagged: Docked, password: str
) -> None:
    """With a new password, Compose recreates the container and keeps the volume."""
    before = database(tagged, "alpha")
    ran = tagged.invoke("db.reset", "--volumes", env={"HULEEDU_DB_PASSWORD": password})
    assert_refused(ran, "database 'elsewhere' is tagged as production")
    assert database(tagged, "alpha") == before


def test_a_changed_init_script_does_not_recreate_a_volume_with_another_environments_database(
    tagged: Docked,
) -> None:
    script = tagged.write("init.sql", "SELECT 1;\n")
    mounts = tagged.defined["alpha_db"]["volumes"]
    tagged.define(alpha_db={"volumes": [*mounts, f"{script}:{SCRIPTS}/init.sql:ro"]})
    birth = tagged.birth("alpha_db")
    assert_refused(tagged.invoke("db.reset"), "database 'elsewhere' is tagged as production")
    assert tagged.birth("alpha_db") == birth
    tagged.define(alpha_db={"volumes": mounts})


def assert_kept(docked: Docked, *reasons: str) -> None:
    """Assert that `--volumes` fails with these reasons and changes neither containers nor data."""
    names = [entry["name"] for entry in docked.services]
    before, lives = [database(docked, name) for name in names], docked.lives()
    ran = docked.invoke("db.reset", "--volumes")
    assert ran.code == 1
    for reason in reasons:
        assert reason in ran.out
    assert docked.lives() == lives
    assert [database(docked, name) for name in names] == before


def test_a_volume_that_another_container_uses_is_kept(docked: Docked) -> None:
    assert docked.invoke("db.up").code == 0
    (volume,) = docked.volumes()
    backup = engine().containers.create(
        IMAGE, ["true"], tmpfs={DATA: ""}, volumes=[f"{volume}:/backup:ro"]
    )
    try:
        assert_kept(docked, f"{volume} is also used by the container {backup.name}")
    finally:
        backup.remove()


def test_data_outside_a_volume_of_compose_is_reset_in_place_and_kept_with_volumes() -> None:
    with new_docked("alpha", "beta") as docked:
        docked.define(alpha_db={"volumes": [f"./data:{DATA}"]})
        volume = engine().volumes.create(f"{docked.project}_beta_db_data")
        try:
            assert docked.invoke("db.reset").code == 0
            assert_kept(
                docked,
                f"is in the directory {docked.root}/data",
                f"The volume {volume.name} was not created by Compose for the project",
            )
        finally:
            docked.remove()
            volume.remove()
