"""Compose files parsed by Docker's command line and by this package give the same result."""

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
    """Read with the command, and as if there were none."""
    environment = clean_environment()
    programs = environment["PATH"].split(os.pathsep)
    without = os.pathsep.join(p for p in programs if not (Path(p) / "docker").exists())
    return (
        await read_composition(root, (), environment),
        await read_composition(root, (), {**environment, "PATH": without}),
    )


@pytest.mark.parametrize("directory", SAMPLES, indirect=True)
async def test_both_parsers_give_the_same_result(directory: Path) -> None:
    asked, read = await both(directory)
    assert (asked.how, read.how) == (BY_COMPOSE, BY_READING)
    assert dict(asked.containers) == dict(read.containers)
    assert list(asked.containers) == list(read.containers)
    assert asked.files == read.files


async def test_both_parsers_give_the_same_result_in_this_repository() -> None:
    asked, read = await both(PROJECT)
    assert (asked.how, read.how) == (BY_COMPOSE, BY_READING)
    assert asked.containers == read.containers
    assert len(asked.databases) == 8


async def test_compose_is_not_told_to_write_what_may_hold_passwords(tmp_path: Path) -> None:
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
        "version: '3'\nservices: {db: {image: 'postgres:${NOBODY_SETS_THIS}'}}\n"
    )
    asked, read = await both(tmp_path)
    assert asked.how == BY_COMPOSE
    assert asked.containers == read.containers


async def test_a_file_that_compose_refuses_is_parsed_here_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        "services: {db: {image: postgres, env_file: nowhere.env, ports: ['5441:5432']}}\n"
    )
    asked, read = await both(tmp_path)
    assert asked.how == BY_READING
    assert asked.containers == read.containers
    assert any("`docker compose config` does not accept" in remark for remark in asked.remarks)
