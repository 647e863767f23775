"""Which folders are services, and where their migrations are."""

import subprocess
from pathlib import Path

import pytest

from huleedu_tasks.survey.files import repository_files
from huleedu_tasks.survey.folders import find_folders
from tests.support.survey import INI, service, write

INI_OF = "[alembic]\nscript_location = {}\n"
TOML = '[tool.alembic]\nscript_location = "%(here)s/alembic"\n'
HERE = "[alembic]\nscript_location = %(here)s{}\n"


def folders(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return the configuration of each service by its folder, and what was remarked."""
    repository_files.cache_clear()
    remarks: list[str] = []
    found = find_folders(root, remarks)
    paths = {
        f.path.relative_to(root).as_posix(): f.config.relative_to(root).as_posix() for f in found
    }
    return paths, remarks


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/alembic.ini": INI, "a/alembic/env.py": ""}, {"a": "a/alembic.ini"}),
        (
            {"a/migrations/alembic.ini": INI_OF.format("migrations"), "a/migrations/env.py": ""},
            {"a": "a/migrations/alembic.ini"},
        ),
        (
            {"a/migrations/alembic.ini": HERE.format(""), "a/migrations/env.py": ""},
            {"a": "a/migrations/alembic.ini"},
        ),
        (
            {"a/conf/db.ini": HERE.format("/../alembic"), "a/alembic/env.py": ""},
            {"a": "a/conf/db.ini"},
        ),
        (
            {"a/pyproject.toml": TOML, "a/alembic/env.py": ""},
            {"a": "a/pyproject.toml"},
        ),
        (
            {
                "a/pyproject.toml": TOML,
                "a/alembic.ini": "[alembic]\nsqlalchemy.url = x\n",
                "a/alembic/env.py": "",
            },
            {"a": "a/alembic.ini"},
        ),
        (
            {
                "a/alembic.ini": INI_OF.format("orders:migrations"),
                "a/src/orders/migrations/env.py": "",
            },
            {"a": "a/alembic.ini"},
        ),
        ({"alembic.ini": INI, "alembic/env.py": ""}, {".": "alembic.ini"}),
        (
            {
                "a/alembic.ini": INI,
                "a/alembic/env.py": "",
                "a/b/alembic.ini": INI,
                "a/b/alembic/env.py": "",
            },
            {"a": "a/alembic.ini", "a/b": "a/b/alembic.ini"},
        ),
    ],
)
def test_a_service_is_where_the_script_location_leads(
    tmp_path: Path, files: dict[str, str], expected: dict[str, str]
) -> None:
    assert folders(write(tmp_path, files)) == (expected, [])


@pytest.mark.parametrize(
    "folder",
    [
        "node_modules/x",
        ".cache/x",
        "build/x",
        "services/a/dist",
        "lib/python3.11/site-packages/x",
        "venv/x",
    ],
)
def test_what_others_have_written_is_no_service(tmp_path: Path, folder: str) -> None:
    write(tmp_path, {**service(folder), "venv/pyvenv.cfg": ""})
    assert folders(tmp_path) == ({}, [])


def test_what_git_ignores_is_no_service(tmp_path: Path) -> None:
    write(tmp_path, {**service("kept"), **service("scratch/copy"), ".gitignore": "scratch/\n"})
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert folders(tmp_path) == ({"kept": "kept/alembic.ini"}, [])


def test_what_looks_like_a_service_and_is_none_is_told(tmp_path: Path) -> None:
    write(tmp_path, service("a"))
    write(
        tmp_path, {"b/alembic.ini": INI, "a/alembic_audit.ini": INI, **service("a/tests/fixture")}
    )
    found, remarks = folders(tmp_path)
    assert found == {"a": "a/alembic.ini"}
    assert remarks == [
        "a/alembic_audit.ini configures migrations of a too, as alembic.ini does, which was taken: "
        "an entry has one configuration.",
        "a/tests/fixture/alembic.ini configures Alembic; no service is looked for there.",
        "b/alembic.ini configures Alembic, but its script_location leads to no env.py.",
    ]


@pytest.mark.parametrize(
    ("files", "python"),
    [
        ({}, None),
        ({".venv/bin/python": "", "uv.lock": ""}, ".venv/bin/python"),
        ({"venv/bin/python": ""}, "venv/bin/python"),
        ({"uv.lock": ""}, ["uv", "run", "python"]),
        ({"pdm.lock": ""}, ["pdm", "run", "python"]),
        ({"poetry.lock": ""}, ["poetry", "run", "python"]),
    ],
)
def test_the_python_of_a_service_is_its_own_environments_or_what_has_locked_it(
    tmp_path: Path, files: dict[str, str], python: object
) -> None:
    write(tmp_path, service("a") | {f"a/{name}": text for name, text in files.items()})
    repository_files.cache_clear()
    (folder,) = find_folders(tmp_path, [])
    found = folder.python(tmp_path)
    assert (found[0] if found else None) == python
