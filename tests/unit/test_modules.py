"""Where in the repository a module lies that an interpreter did not find."""

from pathlib import Path

import pytest

from huleedu_tasks.survey.files import repository_files
from huleedu_tasks.survey.modules import import_folder, python_path
from tests.support.survey import write
from tests.support.values import service


@pytest.mark.parametrize(
    ("files", "module", "folder"),
    [
        (
            ["libs/common/src/common/__init__.py", "libs/common/src/common/db.py"],
            "common.db",
            "libs/common/src",
        ),
        (["common/__init__.py", "services/a/x.py"], "common", "."),
        (["tools/helper.py"], "helper", "tools"),
        (["libs/spaced/inner/x.py"], "spaced.inner", "libs"),
        (["tests/common/__init__.py"], "common", None),
        (["services/a/x.py"], "requests", None),
    ],
)
def test_the_folder_that_makes_a_module_importable(
    tmp_path: Path, files: list[str], module: str, folder: str | None
) -> None:
    write(tmp_path, dict.fromkeys(files, ""))
    repository_files.cache_clear()
    expected = None if folder is None else tmp_path / folder
    assert import_folder(module, tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "module", "folder"),
    [
        # Every service has a package `src`: its own one is meant.
        (["services/a/src/models.py", "services/b/src/models.py"], "src.models", "services/b"),
        # The service's folder has the name of the package in it.
        (["services/b/src/b/__init__.py", "services/b/alembic.ini"], "b", "services/b/src"),
        (["shared/src/shared/__init__.py", "services/b/x.py"], "shared", "shared/src"),
    ],
)
def test_a_service_finds_its_own_package_first(
    tmp_path: Path, files: list[str], module: str, folder: str
) -> None:
    write(tmp_path, {**dict.fromkeys(files, ""), ".git/HEAD": ""})
    repository_files.cache_clear()
    assert import_folder(module, tmp_path / "services/b") == tmp_path / folder


def test_a_folder_is_added_to_the_path_once(tmp_path: Path) -> None:
    stated = service(directory=tmp_path / "services/a", environment={"PYTHONPATH": "../shared"})
    once = python_path(stated, tmp_path / "libs")
    assert once == "../shared:../../libs"
    again = service(directory=tmp_path / "services/a", environment={"PYTHONPATH": once})
    assert python_path(again, tmp_path / "libs") == once
