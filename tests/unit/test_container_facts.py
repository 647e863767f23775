"""The cache of container facts: valid while the container runs, and optional."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from huleedu_tasks.compose.container_facts import MOST, ContainerFacts
from huleedu_tasks.compose.container_state import ContainerState

STARTED = datetime(2025, 3, 1, tzinfo=UTC)
FACT = "system identifier"


def container(number: str = "c1", *, started: datetime = STARTED) -> ContainerState:
    return ContainerState(
        id=number,
        name="orders",
        status="running",
        exit_code=0,
        started=started,
        directory="/monorepo",
        service="orders_db",
        config_hash="",
        image="",
        published=(),
        variables={},
        mounts=(),
    )


def memory(directory: Path) -> ContainerFacts:
    return ContainerFacts(path=directory / "containers.json")


def test_the_cache_is_empty_at_first(tmp_path: Path) -> None:
    assert memory(tmp_path).recall(container(), FACT) is None


@pytest.mark.parametrize("value", ["7123", ""])
def test_a_cached_fact_is_read_by_the_next_run(tmp_path: Path, value: str) -> None:
    memory(tmp_path).note(container(), FACT, value)
    assert memory(tmp_path).recall(container(), FACT) == value
    assert memory(tmp_path).recall(container(), "another fact") is None


@pytest.mark.parametrize(
    "other",
    [container("c2"), container(started=STARTED + timedelta(microseconds=1))],
    ids=["another container", "started again"],
)
def test_facts_are_not_valid_after_a_restart(tmp_path: Path, other: ContainerState) -> None:
    memory(tmp_path).note(container(), FACT, "7123")
    assert memory(tmp_path).recall(other, FACT) is None


def test_facts_of_several_containers_are_kept(tmp_path: Path) -> None:
    noted = memory(tmp_path)
    noted.note(container("c1"), FACT, "1")
    noted.note(container("c2"), FACT, "2")
    noted.note(container("c1"), "init scripts", "abc")
    known = memory(tmp_path)
    assert [known.recall(container(number), FACT) for number in ("c1", "c2")] == ["1", "2"]
    assert known.recall(container("c1"), "init scripts") == "abc"


def test_only_the_latest_containers_are_kept(tmp_path: Path) -> None:
    noted = memory(tmp_path)
    for number in range(MOST + 5):
        noted.note(container(f"c{number}"), FACT, str(number))
    known = memory(tmp_path)
    assert known.recall(container("c4"), FACT) is None
    assert known.recall(container("c5"), FACT) == "5"
    assert known.recall(container(f"c{MOST + 4}"), FACT) == str(MOST + 4)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "[1, 2]", "null", "7", '"text"', "\x00", "{}", '{"c1 KEY": 5}'],
)
def test_an_unreadable_file_is_ignored_and_replaced(tmp_path: Path, text: str) -> None:
    known = memory(tmp_path)
    known.path.write_text(text.replace("KEY", STARTED.isoformat()))
    assert known.recall(container(), FACT) is None
    known.note(container(), FACT, "7123")
    assert memory(tmp_path).recall(container(), FACT) == "7123"
    assert json.loads(known.path.read_text())


def test_without_write_access_nothing_is_cached(tmp_path: Path) -> None:
    noted = memory(tmp_path / "no such directory")
    noted.note(container(), FACT, "7123")
    assert noted.recall(container(), FACT) == "7123"
    assert memory(tmp_path / "no such directory").recall(container(), FACT) is None
