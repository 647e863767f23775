"""A developer's `.env`: written once, for the owner only, with a new password."""

import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.env.init import (
    add_lines,
    new_password,
    quoted,
    with_values,
    write_env_file,
)
from huleedu_tasks.errors import ConfigurationError
from tests.support.monorepo import PROJECT

EXAMPLE = (PROJECT / "env.example").read_text(encoding="utf-8")


def login() -> dict[str, str]:
    return {"HULEEDU_DB_USER": "huleedu_user", "HULEEDU_DB_PASSWORD": new_password()}


def password(root: Path) -> str:
    return Settings.load(root).get("HULEEDU_DB_PASSWORD")


@pytest.mark.parametrize("example", [EXAMPLE, None], ids=["with example", "without example"])
def test_it_has_the_development_login_and_only_its_owner_may_read_it(
    tmp_path: Path, example: str | None
) -> None:
    if example:
        (tmp_path / "env.example").write_text(example)
    path = write_env_file(tmp_path, login())
    assert path == tmp_path / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = Settings.load(tmp_path)
    assert settings.get("HULEEDU_DB_USER") == "huleedu_user"
    assert len(password(tmp_path)) >= 24


def test_other_lines_of_the_example_are_kept(tmp_path: Path) -> None:
    (tmp_path / "env.example").write_text(f"OTHER=1\n{EXAMPLE}# last\n")
    write_env_file(tmp_path, login())
    written = (tmp_path / ".env").read_text()
    blank = written.replace(password(tmp_path), "")
    assert blank == f"OTHER=1\n{EXAMPLE}# last\n"


def test_an_existing_file_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("MINE=1\n")
    assert write_env_file(tmp_path, login()) is None
    assert path.read_text() == "MINE=1\n"


def test_lines_are_appended_to_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("MINE='1'  # kept")
    add_lines(path, {"HULEEDU_DB_USER": "dev", "HULEEDU_DB_PASSWORD": "it's"})
    assert path.read_text().startswith("MINE='1'  # kept\nHULEEDU_DB_USER=dev\n")
    assert password(tmp_path) == "it's"


def test_an_example_may_be_named_dot_env_example(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text("SECRET_KEY=changeme\n")
    write_env_file(tmp_path, login())
    assert (tmp_path / ".env").read_text().startswith("SECRET_KEY=changeme\nHULEEDU_DB_USER=")


def test_two_generated_passwords_differ(tmp_path: Path) -> None:
    directories = [tmp_path / name for name in ("one", "two")]
    for directory in directories:
        directory.mkdir()
        write_env_file(directory, login())
    assert len({password(directory) for directory in directories}) == 2


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="could not be written"):
        write_env_file(tmp_path / "nowhere", login())


@pytest.mark.parametrize(
    ("example", "filled"),
    [
        ("HULEEDU_DB_PASSWORD=\n", "HULEEDU_DB_PASSWORD=new\n"),
        (
            "A=1\nexport HULEEDU_DB_PASSWORD = old # why\nB=2\n",
            "A=1\nHULEEDU_DB_PASSWORD=new\nB=2\n",
        ),
        ("# HULEEDU_DB_PASSWORD=old\n", "# HULEEDU_DB_PASSWORD=old\nHULEEDU_DB_PASSWORD=new\n"),
        ("A=1", "A=1\nHULEEDU_DB_PASSWORD=new\n"),
    ],
)
def test_the_password_replaces_the_value_in_its_line(example: str, filled: str) -> None:
    assert with_values(example, {"HULEEDU_DB_PASSWORD": "new"}) == filled


@given(value=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
@example("pa${HOME} 'it' # \\")
@example('two\r\nlines ${HOME} "\\n"')
def test_a_quoted_value_is_read_back_unchanged(value: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / ".env"
        path.write_bytes(f"A=1\nX={quoted(value)}\nB=2\n".encode())
        read = Settings.read(Path(directory))
    assert (read.file["X"], read.file["B"]) == (value, "2")
