"""What revision files state is cached by their content, and read again where that differs."""

import json
import os
from pathlib import Path

import pytest

from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.alembic_config import NotUnderstood
from huleedu_tasks.migrations.revision_files import revision_files
from huleedu_tasks.migrations.revisions import Revision

FILE = '"""Add %s.\n\nMore.\n"""\nrevision = %r\ndown_revision = "a", "b"\ndepends_on = "c"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "one.py"
    path.write_text(FILE % ("one", "1"))
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


def cache_of(state: Path) -> Path:
    (path,) = (state / "alembic").iterdir()
    return path


def read(state: Path | None, *paths: Path) -> list[Revision]:
    with revision_files(state, "orders") as files:
        return [files.revision(path) for path in paths]


def test_a_cached_revision_equals_the_one_that_was_parsed(state: Path, path: Path) -> None:
    expected = Revision(
        id="1", parents=("a", "b"), depends_on=("c",), message="Add one.", path=path
    )
    assert read(None, path) == read(state, path) == read(state, path) == [expected]


def test_an_unchanged_file_is_not_parsed_again(state: Path, path: Path) -> None:
    read(state, path)
    cached = cache_of(state).read_text()
    cache_of(state).write_text(cached.replace("Add one.", "From the cache"))
    (found,) = read(state, path)
    assert found.message == "From the cache"


def test_a_file_with_other_content_or_another_name_is_read(state: Path, path: Path) -> None:
    read(state, path)
    size, times = len(path.read_bytes()), path.stat()
    path.write_text(FILE % ("two", "2"))
    assert len(path.read_bytes()) == size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (found,) = read(state, path)
    assert (found.id, found.message) == ("2", "Add two.")
    (moved,) = read(state, path.rename(path.with_name("moved.py")))
    assert (moved.id, moved.path.name) == ("2", "moved.py")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 1}', "\0"])
def test_an_unreadable_cache_counts_as_missing(state: Path, path: Path, text: str) -> None:
    (expected,) = read(state, path)
    cache_of(state).write_text(text)
    assert read(state, path) == [expected]


@pytest.mark.parametrize("entry", [1, [], ["1", [], []], ["1", "a", [], ""], [None, [], [], ""]])
def test_an_entry_of_another_form_counts_as_missing(state: Path, path: Path, entry: object) -> None:
    (expected,) = read(state, path)
    document = json.loads(cache_of(state).read_text())
    document["files"] = dict.fromkeys(document["files"], entry)
    cache_of(state).write_text(json.dumps(document))
    assert read(state, path) == [expected]


def test_what_other_rules_parsed_is_parsed_again(state: Path, path: Path) -> None:
    read(state, path)
    document = json.loads(cache_of(state).read_text().replace("Add one.", "By other rules"))
    document["rules"][0] -= 1
    cache_of(state).write_text(json.dumps(document))
    assert read(state, path)[0].message == "Add one."


@pytest.mark.parametrize(
    ("source", "error"), [("revision = (", SyntaxError), ("revision = f()", NotUnderstood)]
)
def test_errors_are_not_cached(
    state: Path, path: Path, source: str, error: type[SyntaxError | MigrationError]
) -> None:
    wrong = path.with_name("wrong.py")
    wrong.write_text(source)
    for _ in range(2):
        with pytest.raises(error):
            read(state, path, wrong)
    assert len(json.loads(cache_of(state).read_text())["files"]) == 1


def test_a_missing_state_directory_is_not_created(tmp_path: Path, path: Path) -> None:
    assert read(tmp_path / "missing", path)[0].id == "1"
    assert not (tmp_path / "missing").exists()


def test_a_state_directory_that_cannot_be_written_is_no_error(state: Path, path: Path) -> None:
    (state / "alembic").write_text("a file")
    assert read(state, path)[0].id == "1"
