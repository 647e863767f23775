"""Compose files read by Docker's command line and read here: both come to the same."""

import os
import shutil
import textwrap
from pathlib import Path

import pytest

from huleedu_tasks.survey.composition import (
    BY_COMPOSE,
    BY_READING,
    Composition,
    read_composition,
)
from tests.support.compose_samples import SAMPLES
from tests.support.monorepo import PROJECT, clean_environment

pytestmark = pytest.mark.skipif(not shutil.which("docker"), reason="no command `docker`")


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
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


@pytest.mark.parametrize("folder", SAMPLES, indirect=True)
async def test_both_ways_come_to_the_same(folder: Path) -> None:
    asked, read = await both(folder)
    assert (asked.how, read.how) == (BY_COMPOSE, BY_READING)
    assert dict(asked.containers) == dict(read.containers)
    assert list(asked.containers) == list(read.containers)
    assert asked.files == read.files


async def test_both_ways_come_to_the_same_in_this_repository() -> None:
    asked, read = await both(PROJECT)
    assert (asked.how, read.how) == (BY_COMPOSE, BY_READING)
    assert asked.containers == read.containers
    assert len(asked.databases) == 8


async def test_what_compose_refuses_is_read_here_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(
        "services: {db: {image: postgres, env_file: nowhere.env, ports: ['5441:5432']}}\n"
    )
    asked, read = await both(tmp_path)
    assert asked.how == BY_READING
    assert asked.containers == read.containers
    assert any("`docker compose config` does not accept" in remark for remark in asked.remarks)
