"""Names of snapshots, and the files that a killed command leaves."""

import time
from pathlib import Path

import pytest

from huleedu_tasks.db.snapshots import Unfinished, require_name, shown_age
from huleedu_tasks.db.undo import Begun
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.postgres.clones import LONGEST_SNAPSHOT, snapshot_name
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.postgres.replacement import undo_name

LONGEST = "n" * LONGEST_SNAPSHOT


@pytest.mark.parametrize("name", ["before-merge", "A_1", "7", "--", LONGEST])
def test_names_of_letters_digits_hyphens_and_underscores_are_accepted(name: str) -> None:
    require_name(name)


@pytest.mark.parametrize(
    "name", ["", "db.reset", "a b", "a/b", "a\n", "é", "\u0664", f"{LONGEST}n"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        require_name(name)
    assert refused.value.code == "snapshot-name-invalid"


@pytest.mark.parametrize("database", ["short", "d" * 26, "d" * 27, "d" * 63, "ä" * 31])
def test_the_name_of_a_copy_fits_and_ends_with_that_of_the_snapshot(database: str) -> None:
    copy = snapshot_name(database, LONGEST)
    assert len(copy.encode()) <= 63
    assert copy.endswith(f"__snap_{LONGEST}")
    assert len(undo_name(database).encode()) <= 63


def test_copies_of_long_names_with_the_same_beginning_differ() -> None:
    assert snapshot_name("d" * 62 + "a", "x") != snapshot_name("d" * 62 + "b", "x")
    assert undo_name("d" * 62 + "a") != undo_name("d" * 62 + "b")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7300, "2 h"), (180_000, "2 d")]
)
def test_an_age_is_shown_in_its_largest_unit(seconds: float, shown: str) -> None:
    created = str(time.time() - seconds)
    tag = EnvironmentTag(environment="development", snapshot={"created": created})
    assert shown_age(tag) == shown


def test_a_command_is_unfinished_until_it_ends_or_all_its_snapshots_are_dropped(
    tmp_path: Path,
) -> None:
    unfinished = Unfinished.of(tmp_path)
    assert unfinished.read() == {}
    unfinished.begin("first", ["one", "two"])
    unfinished.begin("second", ["one"])
    assert unfinished.read() == {"first": ["one", "two"], "second": ["one"]}
    unfinished.end("second")
    unfinished.note_dropped(["one"])
    assert unfinished.read() == {"first": ["two"]}
    unfinished.note_dropped(["two", "three"])
    assert unfinished.read() == {}


def test_an_undo_is_begun_until_it_ends(tmp_path: Path) -> None:
    begun = Begun.of(tmp_path)
    begun.end()
    assert begun.read() == {}
    begun.write({"one": 16400})
    assert begun.read() == {"one": 16400}
    begun.end()
    assert begun.read() == {}
