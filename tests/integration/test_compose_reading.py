"""Reading compose files with `docker compose config` and without it gives the same result."""

import os
import textwrap
from pathlib import Path
from shutil import which

import pytest

from huleedu_tasks.compose.configuration import (
    BY_COMPOSE,
    BY_READING,
    Composition,
    read_composition,
)
from tests.support.compose_samples import SAMPLES
from tests.support.monorepo import PROJECT, clean_environment

pytestmark = pytest.mark.skipif(not which("docker"), reason="no command `docker`")


@pytest.fixture
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for name, text in SAMPLES[request.param].items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


async def both(root: Path) -> tuple[Composition, Composition]:
    """Return the results of reading with the command `docker` and without it on PATH."""
    environment = clean_environment()
    programs = environment["PATH"].split(os.pathsep)
    without = os.pathsep.join(p for p in programs if not (Path(p) / "docker").exists())
    return (
        await read_composition(root, (), environment),
        await read_composition(root, (), {**environment, "PATH": without}),
    )


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


@pytest.mark.parametrize("composed", [False, True])
async def test_a_composed_file_that_is_read_without_compose_has_a_remark_with_the_remedy(
    tmp_path: Path, composed: bool
) -> None:
    base = "  base: {image: postgres}\n"
    db = "  db: {extends: base}\n" if composed else "  db: {image: postgres}\n"
    (tmp_path / "compose.yaml").write_text(f"services:\n{base}{db}")
    asked, read = await both(tmp_path)
    assert asked.remarks == ()
    assert [("Install Docker" in remark) for remark in read.remarks] == [True] * composed
