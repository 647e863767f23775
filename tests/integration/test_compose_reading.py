"""Reading compose files with `docker compose config` and without it gives the same result.

What only Compose resolves is reported instead.
"""

import os
import textwrap
from pathlib import Path
from shutil import which

import pytest

from huleedu_tasks.compose.configuration import (
    BY_COMPOSE,
    BY_READING,
    Composition,
)
from huleedu_tasks.compose.docker_compose import Compose
from huleedu_tasks.compose.file_choice import read_composition, read_own_files
from huleedu_tasks.compose.published_ports import published_ports
from huleedu_tasks.errors import ConfigurationError
from tests.support.compose_samples import SAMPLES
from tests.support.monorepo import PROJECT, clean_environment

NAMES = ("orders", "users", "alone", "shared")

pytestmark = pytest.mark.skipif(not which("docker"), reason="no command `docker`")


@pytest.fixture
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for name, text in SAMPLES[request.param].items():
        write(tmp_path / name, text)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


async def both(root: Path) -> tuple[Composition, Composition]:
    """Return the results of reading with the command `docker` and without it on PATH."""
    environment = clean_environment()
    return (
        await read_composition(root, (), environment),
        await read_composition(root, (), {**environment, "PATH": without_docker()}),
    )


def without_docker() -> str:
    """Return a PATH without the command `docker`."""
    programs = clean_environment()["PATH"].split(os.pathsep)
    return os.pathsep.join(p for p in programs if not (Path(p) / "docker").exists())


@pytest.mark.parametrize("directory", SAMPLES, indirect=True)
async def test_both_ways_give_the_same_result(directory: Path) -> None:
    asked, read = await both(directory)
    assert (asked.how, read.how) == (BY_COMPOSE, BY_READING)
    assert dict(asked.containers) == dict(read.containers)
    assert list(asked.containers) == list(read.containers)
    assert asked.files == read.files


async def test_both_ways_give_the_same_result_in_this_repository() -> None:
    asked, read = await both(PROJECT)
    assert (asked.how, read.how) == (BY_COMPOSE, BY_READING)
    assert asked.containers == read.containers
    assert len(asked.databases) == 8


async def test_compose_prints_the_configuration_and_writes_no_file(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {db: {image: postgres}}\n")
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec {which("docker")} "$@"\n')
    docker.chmod(0o755)
    environment = clean_environment()
    path = os.pathsep.join([str(docker.parent), environment["PATH"]])
    asked = await read_composition(tmp_path, (), {**environment, "PATH": path})
    assert asked.how == BY_COMPOSE
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.endswith("config --format json")


async def test_warnings_of_compose_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        "version: '3'\nservices: {db: {image: 'postgres:${NOT_SET}'}}\n"
    )
    asked, read = await both(tmp_path)
    assert asked.how == BY_COMPOSE
    assert asked.containers == read.containers


async def test_files_that_compose_rejects_are_read_without_it_with_a_remark(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        "services: {db: {image: postgres, env_file: nowhere.env, ports: ['5441:5432']}}\n"
    )
    asked, read = await both(tmp_path)
    assert asked.how == BY_READING
    assert asked.containers == read.containers
    assert any("`docker compose config` did not accept" in remark for remark in asked.remarks)


ONLY_COMPOSE = {
    "compose.yaml": """\
        include: [infra/databases.yaml]
        services:
          base: {image: "postgres:15", environment: {POSTGRES_DB: base}}
          orders_db: {extends: base, ports: ["5441:5432"]}
          users_db: {image: postgres, ports: ["5442:5432"]}
          alone_db: {image: postgres, ports: ["5443:5432"]}
        """,
    "compose.override.yaml": """\
        services:
          users_db: {ports: !override ["5450:5432"], environment: {A: !reset null}}
        """,
    "infra/databases.yaml": "services: {shared_db: {image: postgres, ports: ['5444:5432']}}\n",
}


async def test_what_only_compose_reads_is_reported_without_it(tmp_path: Path) -> None:
    for name, text in ONLY_COMPOSE.items():
        write(tmp_path / name, text)
    asked, read = await both(tmp_path)
    assert (asked.unread, asked.remarks) == ((), ())
    assert (asked.how, read.how) == (BY_COMPOSE, BY_READING)
    assert [asked.containers[f"{name}_db"].port for name in NAMES] == [5441, 5450, 5443, 5444]
    assert [str(part) for part in read.unread] == [
        "compose.yaml: `include`",
        "compose.yaml: service 'orders_db', `extends`",
        "compose.override.yaml: service 'users_db', `ports: !override`",
        "compose.override.yaml: service 'users_db', `environment: A: !reset`",
    ]
    assert [len(read.unread_of(f"{name}_db")) for name in NAMES] == [1, 2, 0, 1]
    (remark,) = read.remarks
    assert "`docker` is not on PATH" in remark
    assert "compose.yaml: service 'orders_db', `extends`" in remark


async def test_compose_reads_own_files_only_if_it_must(tmp_path: Path) -> None:
    environment = clean_environment()
    write(tmp_path / "compose.yaml", "services: {db: {image: postgres}}")
    assert (await read_own_files(tmp_path, (), environment)).how == BY_READING
    write(tmp_path / "compose.yaml", "services: {a: {image: postgres}, db: {extends: a}}")
    read = await read_own_files(tmp_path, (), environment)
    assert (read.how, list(read.databases)) == (BY_COMPOSE, ["a", "db"])


def test_a_port_that_is_needed_and_not_read_is_an_error(tmp_path: Path) -> None:
    for name, text in ONLY_COMPOSE.items():
        write(tmp_path / name, text)
    without = {**clean_environment(), "PATH": without_docker()}
    ports = published_ports(tmp_path, (), ["alone_db", "orders_db"], without)
    assert (ports["alone_db"], ports["orders_db"]) == (5443, 5441)
    with pytest.raises(ConfigurationError) as caught:
        published_ports(tmp_path, (), ["alone_db", "users_db", "shared_db"], without)
    assert caught.value.code == "compose-not-read"
    assert [finding.place for finding in caught.value.findings] == [
        "shared_db",
        "users_db",
    ]


async def test_published_ports_are_read_within_an_event_loop(tmp_path: Path) -> None:
    for name, text in ONLY_COMPOSE.items():
        write(tmp_path / name, text)
    assert published_ports(tmp_path, (), ["shared_db"], clean_environment())["shared_db"] == 5444
    write(tmp_path / "compose.override.yaml", "services: !override {db: {image: postgres}}\n")
    without = {**clean_environment(), "PATH": without_docker()}
    with pytest.raises(ConfigurationError) as caught:
        published_ports(tmp_path, (), ["alone_db"], without)
    (finding,) = caught.value.findings
    assert "compose.override.yaml: `services: !override`" in finding.problem


async def test_an_env_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    write(tmp_path / "compose.yaml", "services: {orders: {image: postgres, env_file: .env}}")
    files = (tmp_path / "compose.yaml",)
    compose = Compose(root=tmp_path, files=files, environment=clean_environment())
    with pytest.raises(ConfigurationError) as caught:
        await compose.project()
    assert caught.value.code == "compose-env-file-missing"
    assert f"'env_file' {tmp_path / '.env'}," in caught.value.message
