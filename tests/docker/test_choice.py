"""Which provider is chosen and why, and whose compose files and project name are used."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.docker import Docked, database_service, new_docked
from tests.support.monorepo import PROJECT, Monorepo, clean_environment

REPOSITORY_FILE = PROJECT / "docker-compose.infrastructure.yml"
CONTRACT = {
    "essay_lifecycle": 5433,
    "cj_assessment": 5434,
    "class_management": 5435,
    "result_aggregator": 5436,
    "spellchecker": 5437,
    "batch_orchestrator": 5438,
    "file_service": 5439,
    "nlp": 5440,
}
# A default file of Compose, the one in COMPOSE_FILE and the one in the registry, in ascending order
# of precedence.
COMPOSE_FILES = ["compose.yaml", "stated/by-variable.yml", "stated/by-registry.yml"]


@pytest.fixture
def docked() -> Iterator[Docked]:
    with new_docked("alpha") as made:
        yield made


@pytest.fixture(scope="module")
def repository() -> dict[str, dict[str, object]]:
    """The resolved configuration of this repository's own compose file."""
    done = subprocess.run(
        ["docker", "compose", "-f", REPOSITORY_FILE, "config", "--format", "json"],
        env={**clean_environment(), "HULEEDU_DB_USER": "me", "HULEEDU_DB_PASSWORD": "p@ss/w#rd"},
        capture_output=True,
        text=True,
        check=True,
    )
    document: dict[str, dict[str, object]] = json.loads(done.stdout)
    return document


def provider(monorepo: Monorepo, **variables: str) -> tuple[str, str]:
    """Return the name of the provider and the reason for its choice, as db.status reports them."""
    ran = monorepo.invoke("db.status", "--json", env=variables)
    assert ran.code == 0, ran.out
    chosen = ran.json["provider"]
    return chosen["name"], chosen["reason"]


@pytest.mark.parametrize(("name", "port"), CONTRACT.items())
def test_the_compose_file_of_this_repository_declares_each_database_of_the_contract(
    repository: dict[str, dict[str, object]], name: str, port: int
) -> None:
    service = f"{name}_db"
    made = repository["services"][service]
    assert isinstance(made, dict)
    (published,) = made["ports"]
    data = made["volumes"][0]
    assert made["image"] == "postgres:15"
    assert made["healthcheck"]["test"]
    assert (published["host_ip"], published["published"]) == ("127.0.0.1", str(port))
    assert published["target"] == 5432
    assert (data["source"], data["target"]) == (f"{service}_data", "/var/lib/postgresql/data")
    assert f"{service}_data" in repository["volumes"]
    assert made["environment"] == {
        "POSTGRES_USER": "me",
        "POSTGRES_PASSWORD": "p@ss/w#rd",
        "POSTGRES_DB": f"huleedu_{name}",
    }


def test_the_compose_file_of_this_repository_declares_nothing_else(
    repository: dict[str, dict[str, object]],
) -> None:
    assert len(repository["services"]) == len(repository["volumes"]) == len(CONTRACT)


def test_auto_chooses_docker_if_an_engine_answers_and_a_compose_file_exists(
    docked: Docked,
) -> None:
    name, reason = provider(docked, HULEEDU_PROVIDER="auto")
    assert name == "docker"
    assert "docker.sock" in reason


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        (
            {"DOCKER_HOST": "unix:///nowhere/docker.sock"},
            "the socket /nowhere/docker.sock does not exist",
        ),
        ({"DOCKER_HOST": "tcp://127.0.0.1:2375"}, "tcp://127.0.0.1:2375 is reached over a network"),
        ({"DOCKER_CONTEXT": "unheard-of"}, "Docker context 'unheard-of' does not exist"),
        ({"PATH": "/nowhere"}, "`docker` is not on PATH"),
    ],
)
def test_auto_chooses_embedded_servers_without_a_usable_engine_and_gives_the_reason(
    docked: Docked, variables: dict[str, str], why: str
) -> None:
    name, reason = provider(docked, HULEEDU_PROVIDER="auto", **variables)
    assert name == "embedded"
    assert why in reason


def test_auto_chooses_embedded_servers_without_a_compose_file(monorepo: Monorepo) -> None:
    name, reason = provider(monorepo, HULEEDU_PROVIDER="auto")
    assert name == "embedded"
    assert f"No compose file was found in {monorepo.root}" in reason


@pytest.mark.parametrize("count", [1, 2, 3])
def test_compose_files_are_those_of_the_registry_else_of_compose_file_else_the_default(
    docked: Docked, count: int
) -> None:
    """Each file has a service named after it, so that the error shows which ones were read."""
    docked.path("docker-compose.yml").unlink()
    for path in COMPOSE_FILES[:count]:
        docked.write_compose({path.rpartition("/")[2].partition(".")[0]: {"image": "x"}}, path)
    if count > 1:
        docked.environment["COMPOSE_FILE"] = COMPOSE_FILES[1]
    if count > 2:
        registry = {"compose_files": [COMPOSE_FILES[2]], "services": docked.services}
        docked.write("services.json", json.dumps(registry))
    ran = docked.invoke("db.up")
    expected = ["compose", "by-variable", "by-registry"][count - 1]
    assert ran.code == 2
    assert f"they have {expected}." in ran.out


@pytest.mark.parametrize("way", ["the file", "the variable", "the directory"])
def test_the_project_name_is_the_one_that_compose_resolves(docked: Docked, way: str) -> None:
    """A container of `docker compose create` is found, however the project name is stated."""
    unique = docked.project
    service = {"alpha_db": database_service(docked.port("alpha"), "huleedu_alpha", "data")}
    if way == "the file":
        del docked.environment["COMPOSE_PROJECT_NAME"]
        docked.write_compose(service, name=unique)
    if way == "the directory":
        del docked.environment["COMPOSE_PROJECT_NAME"]
        docked.root = docked.root.rename(docked.root.with_name(unique))
    docked.compose("create", "--quiet-pull")
    assert docked.containers().keys() == {"alpha_db"}
    ran = docked.invoke("db.down")
    assert ran.code == 0
    assert "not running" in ran.out
