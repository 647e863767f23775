"""Finding the directories of services and of their migrations."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from huleedu_tasks.discovery.service_facts import telling_name
from huleedu_tasks.errors import Finding
from huleedu_tasks.migrations.directories import find_directories, ini_url
from huleedu_tasks.repository import repository_files
from tests.support.repositories import INI, service, write

INI_OF = "[alembic]\nscript_location = {}\n"
TOML = '[tool.alembic]\nscript_location = "%(here)s/alembic"\n'
HERE = "[alembic]\nscript_location = %(here)s{}\n"


def directories(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return the configuration of each service by its directory, and the remarks."""
    repository_files.cache_clear()
    not_taken: list[Finding] = []
    found = find_directories(root, not_taken)
    paths = {
        f.path.relative_to(root).as_posix(): f.config.relative_to(root).as_posix() for f in found
    }
    return paths, [f"{finding.place} {finding.problem}." for finding in not_taken]


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
def test_a_service_is_found_by_its_script_location(
    tmp_path: Path, files: dict[str, str], expected: dict[str, str]
) -> None:
    assert directories(write(tmp_path, files)) == (expected, [])


@pytest.mark.parametrize(
    "directory",
    [
        "node_modules/x",
        ".cache/x",
        "build/x",
        "services/a/dist",
        "lib/python3.11/site-packages/x",
        "venv/x",
    ],
)
def test_installed_code_is_not_a_service(tmp_path: Path, directory: str) -> None:
    write(tmp_path, {**service(directory), "venv/pyvenv.cfg": ""})
    assert directories(tmp_path) == ({}, [])


def test_ignored_directories_are_not_services(tmp_path: Path) -> None:
    write(tmp_path, {**service("kept"), **service("scratch/copy"), ".gitignore": "scratch/\n"})
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert directories(tmp_path) == ({"kept": "kept/alembic.ini"}, [])


def test_submodules_and_nested_repositories_are_searched(tmp_path: Path) -> None:
    module = write(tmp_path / "elsewhere", service("module"))
    root = write(tmp_path / "root", service("apps/own"))
    for directory in (module, root):
        git(directory, "init", "--quiet")
    git(module, "add", ".")
    git(module, "commit", "--quiet", "--message", "x")
    git(root, "submodule", "--quiet", "add", str(module), "libs/module")
    git(write(root / "nested", service("shop")), "init", "--quiet")
    write(root, {"nested/.gitignore": "copy/\n", **service("nested/copy")})
    assert set(directories(root)[0]) == {"apps/own", "libs/module/module", "nested/shop"}


def test_a_worktree_of_the_same_repository_is_not_searched(tmp_path: Path) -> None:
    root = write(tmp_path, service("apps/own"))
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "x")
    git(root, "worktree", "add", "--quiet", "checkouts/fix")
    assert set(directories(root)[0]) == {"apps/own"}


def git(directory: Path, *arguments: str) -> None:
    names = ("user.name=x", "user.email=x@example.org", "protocol.file.allow=always")
    settings = [word for name in names for word in ("-c", name)]
    subprocess.run(["git", *settings, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.mark.parametrize("has_git", [True, False])
def test_names_that_are_not_utf_8_or_begin_with_a_space_are_handled(
    tmp_path: Path, has_git: bool
) -> None:
    write(tmp_path, service(" blank"))
    named = tmp_path / os.fsdecode(b"caf\xe9")
    write(named, service("."))
    if has_git:
        git(tmp_path, "init", "--quiet")
    found, remarks = directories(tmp_path)
    assert set(found) == {" blank"}
    assert remarks == [
        "caf\N{REPLACEMENT CHARACTER}/alembic.ini configures Alembic, but its path is not valid "
        "UTF-8, which a registry requires."
    ]


def test_a_service_outside_the_root_is_ignored(tmp_path: Path) -> None:
    root = write(tmp_path / "services" / "db", service("."))
    repository_files.cache_clear()
    (directory,) = find_directories(root, [])
    assert directory.home == root
    assert telling_name(directory) == "db"


def test_without_git_links_and_special_files_are_skipped(tmp_path: Path) -> None:
    root = write(tmp_path / "root", service("own"))
    elsewhere = write(tmp_path / "elsewhere", service("other"))
    (root / "link").symlink_to(elsewhere)
    (root / "circle").symlink_to(root)
    os.mkfifo(root / "config.py")
    assert directories(root) == ({"own": "own/alembic.ini"}, [])
    assert root / "config.py" not in repository_files(root)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """Create a directory that any user may enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Drop the privileges of root, which may read every directory, for a moment."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_an_inaccessible_directory_is_skipped(open_to_all: Path, mode: int) -> None:
    write(open_to_all, service("own") | service("closed"))
    closed = open_to_all / "closed"
    closed.chmod(mode)
    try:
        with ordinary_user():
            assert directories(open_to_all)[0] == {"own": "own/alembic.ini"}
    finally:
        closed.chmod(0o700)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "tool = 5\n"),
        ("pyproject.toml", "[tool]\nalembic = 5\n"),
        ("pyproject.toml", f"a = {'[' * 5000}{']' * 5000}\n"),
        ("setup.ini", "alembic\n"),
    ],
)
def test_settings_without_alembic_are_skipped(tmp_path: Path, name: str, text: str) -> None:
    assert directories(write(tmp_path, {f"a/{name}": text})) == ({}, [])


def test_an_unreadable_alembic_ini_is_reported(tmp_path: Path) -> None:
    assert directories(write(tmp_path, {"a/alembic.ini": "script_location = alembic\n"})) == (
        {},
        ["a/alembic.ini could not be parsed, and its service was skipped."],
    )


@pytest.mark.parametrize("location", ["x" * 300, "%(here)s/../../../elsewhere", "/nowhere", "\0"])
def test_a_script_location_that_does_not_exist_is_reported(tmp_path: Path, location: str) -> None:
    found, remarks = directories(write(tmp_path, {"a/alembic.ini": INI_OF.format(location)}))
    assert found == {}
    assert remarks == ["a/alembic.ini configures Alembic, but its script_location has no env.py."]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a/alembic.ini": "[alembic]\n", "a/env.py": "from flask import current_app"}, "Flask"),
        ({"a/alembic.ini": "[alembic]\n"}, "has no script_location"),
        ({"a/alembic.ini": "[core]\nscript_location = core\n"}, "has no env.py"),
        ({"a/alembic.ini": "[loggers]\nkeys = root\n"}, "no section"),
    ],
)
def test_an_unusable_configuration_is_reported_with_its_reason(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    found, (remark,) = directories(write(tmp_path, files))
    assert found == {}
    assert remark.startswith("a/alembic.ini")
    assert reason in remark


def test_each_database_of_an_env_py_for_several_is_a_service(tmp_path: Path) -> None:
    ini = f"{INI}databases = accounts, audit\n[accounts]\n[audit]\nsqlalchemy.url = u\n"
    several = 'names = config.get_main_option("databases", "")'
    write(tmp_path, {"a/alembic.ini": ini, "a/alembic/env.py": several})
    write(tmp_path, {"b/alembic.ini": ini, "b/alembic/env.py": "does not read them"})
    repository_files.cache_clear()
    found = find_directories(tmp_path, [])
    assert [(f.path.name, f.engine, telling_name(f), ini_url(f)) for f in found] == [
        ("a", "accounts", "accounts", ""),
        ("a", "audit", "audit", "u"),
        ("b", "", "b", ""),
    ]


@pytest.mark.parametrize(
    ("files", "application"),
    [
        ({"a/.flaskenv": "DEBUG=1\nexport FLASK_APP=shop.main:make\n"}, "shop.main:make"),
        ({"a/wsgi.py": "", "a/app.py": ""}, "wsgi"),
        ({"a/app.py": ""}, "app"),
        ({"a/shop/__init__.py": "def create_app():"}, "shop:create_app"),
        ({"a/shop/web.py": "def create_app(name):"}, "shop.web:create_app"),
        ({"a/tests/shop.py": "def create_app():"}, None),
    ],
)
def test_the_application_of_flask_migrate_is_found(
    tmp_path: Path, files: dict[str, str], application: str | None
) -> None:
    env = {"a/migrations/env.py": "from flask import current_app"}
    write(tmp_path, {"a/migrations/alembic.ini": "[alembic]\n", **env, **files})
    repository_files.cache_clear()
    not_taken: list[Finding] = []
    found = [(f.path.name, f.flask_app) for f in find_directories(tmp_path, not_taken)]
    assert found == ([("a", application)] if application else [])
    assert ["'flask_app'" in str(finding) for finding in not_taken] == [True] * (not application)


def test_an_unusable_service_is_reported(tmp_path: Path) -> None:
    write(tmp_path, service("a"))
    write(
        tmp_path, {"b/alembic.ini": INI, "a/alembic_audit.ini": INI, **service("a/tests/fixture")}
    )
    found, remarks = directories(tmp_path)
    assert found == {"a": "a/alembic.ini"}
    assert remarks == [
        "a/alembic_audit.ini configures the same migrations of a as alembic.ini, and was skipped: "
        "an entry has one configuration.",
        "a/tests/fixture/alembic.ini configures Alembic in a directory of tests or templates, "
        "and was skipped.",
        "b/alembic.ini configures Alembic, but its script_location has no env.py.",
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
def test_the_python_of_a_service_is_that_of_its_environment_or_lock_file(
    tmp_path: Path, files: dict[str, str], python: object
) -> None:
    write(tmp_path, service("a") | {f"a/{name}": text for name, text in files.items()})
    repository_files.cache_clear()
    (directory,) = find_directories(tmp_path, [])
    found = directory.python
    assert (found[0] if found else None) == python
