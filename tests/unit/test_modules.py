"""Hints for modules that an interpreter did not find."""

import sys
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks.migrations.modules import import_directory, missing_module_hint, python_path
from huleedu_tasks.repository import repository_files
from tests.support.repositories import write
from tests.support.values import service


@pytest.mark.parametrize(
    ("files", "module", "directory"),
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
        (["src/other.py", "services/a/src/config.py"], "src.config", "services/a"),
        (["services/a/common/x.py"], "common.y", None),
        (["common/setup.py", "common/common/__init__.py"], "common", "common"),
        (["services/a/x.py"], "requests", None),
        (["services/a/alembic/env.py", "alembic/__init__.py"], "alembic", None),
        (["infra/yaml/render.py"], "yaml", None),
    ],
)
def test_the_directory_that_makes_a_module_importable(
    tmp_path: Path, files: list[str], module: str, directory: str | None
) -> None:
    write(tmp_path, dict.fromkeys([".git/HEAD", *files], ""))
    repository_files.cache_clear()
    expected = None if directory is None else tmp_path / directory
    assert import_directory(module, tmp_path / "services/a") == expected


@pytest.mark.parametrize(
    ("files", "module", "directory"),
    [
        # Every service has a package `src`: its own one is found.
        (["services/a/src/models.py", "services/b/src/models.py"], "src.models", "services/b"),
        # The service's directory has the name of the package in it.
        (["services/b/src/b/__init__.py", "services/b/alembic.ini"], "b", "services/b/src"),
        (["shared/src/shared/__init__.py", "services/b/x.py"], "shared", "shared/src"),
    ],
)
def test_a_service_finds_its_own_package_first(
    tmp_path: Path, files: list[str], module: str, directory: str
) -> None:
    write(tmp_path, {**dict.fromkeys(files, ""), ".git/HEAD": ""})
    repository_files.cache_clear()
    assert import_directory(module, tmp_path / "services/b") == tmp_path / directory


def test_a_directory_is_added_to_the_path_once(tmp_path: Path) -> None:
    stated = service(directory=tmp_path / "services/a", environment={"PYTHONPATH": "../shared"})
    once = python_path(stated, tmp_path / "libs")
    assert once == "../shared:../../libs"
    again = service(directory=tmp_path / "services/a", environment={"PYTHONPATH": once})
    assert python_path(again, tmp_path / "libs") == once


def hint(root: Path, module: str, *, of_seed: bool = False, **stated: Any) -> str:
    write(root, {".git/HEAD": ""})
    repository_files.cache_clear()
    orders = service(directory=root / "services/orders", **stated)
    error = f"ModuleNotFoundError: No module named '{module}'"
    return missing_module_hint(orders, error, of_seed=of_seed)


def test_a_module_of_the_repository_has_a_hint_with_pythonpath(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["libs/common/src/common/db.py", "services/orders/x.py"], ""))
    line = '"environment": {"PYTHONPATH": "../../libs/common/src"} for orders in the registry.'
    assert line in hint(tmp_path, "common")
    stated = hint(tmp_path, "common", environment={"REGION": "north"})
    assert '"PYTHONPATH": "../../libs/common/src" in "environment" for orders' in stated


def test_an_installable_package_has_a_hint_with_its_directory(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["libs/common/src/common/db.py", "libs/common/setup.py"], ""))
    told = hint(tmp_path, "common", python=(".venv/bin/python",))
    assert f"`.venv/bin/python -m pip install -e {tmp_path}/libs/common`" in told


def test_a_library_is_named_by_its_distribution_with_the_interpreter(tmp_path: Path) -> None:
    write(tmp_path, {"services/orders/.venv/bin/python": ""})
    told = hint(tmp_path, "yaml")
    assert f"`{sys.executable} -m pip install PyYAML`" in told
    assert '"python": ".venv/bin/python" for orders' in told
    own = hint(tmp_path, "yaml", python=("uv", "run", "python"))
    assert "`uv run python -m pip install PyYAML`" in own
    assert "interpreter of the tasks" in hint(tmp_path, "yaml", of_seed=True, python=("x",))


@pytest.mark.parametrize("module", ["src", "src.db", "src.nothing.there"])
def test_no_hint_installs_a_directory_of_the_repository_by_its_name(
    tmp_path: Path, module: str
) -> None:
    write(tmp_path, dict.fromkeys(["services/orders/src/db.py", "services/a/src/db.py"], ""))
    told = hint(tmp_path, module)
    assert "install src" not in told
    assert ('"PYTHONPATH": "."' in told) == (module != "src.nothing.there")


def test_another_error_has_no_hint() -> None:
    assert not missing_module_hint(service(), "KeyError: 'DATABASE_URL'")
