"""A reset copies a template if and only if every input is unchanged.

The tests of this module edit the same monorepo one after the other: the newest template is that of
the previous test, so the reported reason must be the one edit since.
"""

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.db_runs import without_initdb
from tests.support.instant import (
    COPIED,
    REBUILT,
    Reset,
    amend,
    maintain,
    reset,
    resets,
    templates,
)
from tests.support.monorepo import ENV_PY, PASSWORD, Monorepo, new_monorepo
from tests.support.observe import notes
from tests.support.postgres import ask

SERVICE = "services/alpha_service"
ALEMBIC = f"{SERVICE}/alembic"
VERSIONS = f"{ALEMBIC}/versions"
SEEDS = "database/seed-scripts"
ITS_FILES = "its files"
SETTINGS = "the settings"
ENTRY = "its registry entry"
SEED = """\
import sys
from pathlib import Path

import people

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import rows

TEXT = (ROOT / "data/text.csv").read_text()


async def seed(connection):
    names = [people.TEACHER, rows.PUPIL, TEXT]
    for number, name in enumerate(names):
        await connection.execute("INSERT INTO note VALUES ($1, $2)", number, name)
"""
REVISION = """\
import os

from alembic import op

revision = "a1"
down_revision = None


def upgrade():
    op.execute("CREATE TABLE note (id integer PRIMARY KEY, text text NOT NULL)")
    op.execute(f"CREATE TABLE school AS SELECT '{os.environ.get('SCHOOL', '')}' AS name")
"""
ENV_PY_THAT_SEARCHES = f"""\
import importlib.util

import shared_models

importlib.util.find_spec("optional")
{ENV_PY}"""
SCHOOL = "SELECT name FROM school"
Edit = Callable[[Monorepo], object]


@pytest.fixture(scope="module")
def school() -> Iterator[Monorepo]:
    """A service whose inputs are in many directories of its monorepo."""
    with new_monorepo(["alpha", "other"]) as made:
        without_initdb(made)
        made.write(f"{SERVICE}/data.txt", "of the service")
        made.write(f"{SERVICE}/alembic.ini", _ini("../../libs"))
        made.write(f"{SERVICE}/alembic/env.py", ENV_PY_THAT_SEARCHES)
        made.write(f"{SERVICE}/alembic/versions/a1.py", REVISION)
        made.write("libs/shared_models.py", "TABLE = 1\n")
        made.write("tools/rows.py", "PUPIL = 'pupil'\n")
        made.write("data/text.csv", "text")
        made.write("data/folder/more.csv", "more")
        made.write(f"{SEEDS}/people.py", "TEACHER = 'teacher'\n")
        made.write(f"{SEEDS}/seed_alpha.py", SEED)
        amend(made, alpha={"inputs": ["data/text.csv", "data/folder"]})
        assert reset(made).detail == REBUILT
        assert notes(made, "alpha") == "teacher pupil text"
        yield made


def _ini(*paths: str) -> str:
    return (
        "[alembic]\nscript_location = alembic\npath_separator = os\n"
        f"prepend_sys_path = {os.pathsep.join(['.', *paths])}\n"
    )


def appended(path: str, text: str = "\n# edited\n") -> Edit:
    def edit(monorepo: Monorepo) -> None:
        monorepo.path(path).write_text(monorepo.read(path) + text)

    return edit


def written(path: str, text: str) -> Edit:
    return lambda monorepo: monorepo.write(path, text)


def rebuilt_for(part: str) -> Reset:
    return Reset(REBUILT, f"rebuilt: {part} changed")


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        pytest.param(appended(f"{VERSIONS}/a1.py"), f"{VERSIONS}/a1.py", id="a revision"),
        pytest.param(
            lambda m: m.add_revision("alpha", "b2", "a1", "CREATE TABLE added ()"),
            f"the entries of {VERSIONS}",
            id="a new revision",
        ),
        pytest.param(appended(f"{ALEMBIC}/env.py"), f"{ALEMBIC}/env.py", id="env.py"),
        pytest.param(appended(f"{SERVICE}/config.py"), f"{SERVICE}/config.py", id="config.py"),
        pytest.param(appended(f"{SERVICE}/alembic.ini"), ITS_FILES, id="alembic.ini"),
        pytest.param(
            appended("libs/shared_models.py"), "libs/shared_models.py", id="a shared model"
        ),
        pytest.param(
            written(f"{SERVICE}/optional.py", ""), f"the modules in {SERVICE}", id="found later"
        ),
        pytest.param(
            written("libs/optional.py", ""), "the modules in libs", id="found later elsewhere"
        ),
        pytest.param(written(f"{SERVICE}/data.txt", "other"), ITS_FILES, id="data of the service"),
        pytest.param(written(f"{SERVICE}/new/data.txt", ""), ITS_FILES, id="a new file"),
        pytest.param(lambda m: m.path(f"{SERVICE}/data.txt").unlink(), ITS_FILES, id="a file less"),
        pytest.param(written("data/text.csv", "changed"), ITS_FILES, id="a stated file"),
        pytest.param(written("data/folder/new.csv", ""), ITS_FILES, id="a stated directory"),
        pytest.param(appended(f"{SEEDS}/seed_alpha.py"), ITS_FILES, id="a seed"),
        pytest.param(
            written(f"{SEEDS}/people.py", "TEACHER = 1 and 'x'\n"), ITS_FILES, id="sibling"
        ),
        pytest.param(written("tools/rows.py", "PUPIL = 'new'\n"), "tools/rows.py", id="far module"),
        pytest.param(
            lambda m: amend(m, alpha={"environment": {"A": "b"}}), ENTRY, id="stated environment"
        ),
        pytest.param(lambda m: amend(m, alpha={"extensions": ["pg_trgm"]}), ENTRY, id="extension"),
        pytest.param(appended(".env", "SCHOOL=north\n"), SETTINGS, id="a value of .env"),
    ],
)
def test_a_changed_input_causes_a_rebuild(school: Monorepo, edit: Edit, part: str) -> None:
    edit(school)
    assert reset(school) == rebuilt_for(part)


def test_the_database_has_the_edits(school: Monorepo) -> None:
    assert reset(school).detail == COPIED
    assert notes(school, "alpha") == "x new changed"
    assert ask(school.url("alpha"), SCHOOL) == [("north",)]
    assert ask(school.url("alpha"), "SELECT to_regclass('added') IS NOT NULL") == [(True,)]


def test_changes_that_are_no_inputs_do_not_cause_a_rebuild(school: Monorepo) -> None:
    appended("services/other_service/config.py")(school)
    appended(f"{SEEDS}/seed_other.py")(school)
    amend(school, other={"extensions": ["pg_trgm"]})
    school.write("README.md", "elsewhere")
    school.write("libs/unused.py", "not imported")
    school.write(f"{SERVICE}/app.py", "app = 1")
    school.write(f"{SERVICE}/__pycache__/x.pyc", "bytecode")
    school.write("libs/__pycache__/x.pyc", "bytecode")
    appended(".env", "HULEEDU_JOBS=2\n")(school)
    touch_all(school.path(SERVICE), school.path("libs"), school.path("tools"))
    assert reset(school) == Reset(COPIED, COPIED)


def touch_all(*directories: Path) -> None:
    for path in (
        file for directory in directories for file in directory.rglob("*") if file.is_file()
    ):
        os.utime(path)


def test_templates_are_valid_after_the_monorepo_has_moved(school: Monorepo) -> None:
    moved = school.root.with_name("moved")
    school.root.rename(moved)
    school.root, usual = moved, school.root
    assert reset(school).detail == COPIED
    moved.rename(usual)
    school.root = usual


def test_a_changed_password_does_not_cause_a_rebuild(school: Monorepo) -> None:
    role = "ALTER ROLE huleedu_user PASSWORD '{}'"
    maintain(school, "alpha", role.format("another"))
    try:
        assert reset(school, env={"HULEEDU_DB_PASSWORD": "another"}).detail == COPIED
    finally:
        url = school.url("alpha", database="postgres", password="another")
        ask(url, role.format(PASSWORD))


def test_another_user_causes_a_rebuild(school: Monorepo) -> None:
    maintain(school, "alpha", f"CREATE ROLE second SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    assert reset(school) == rebuilt_for("the server's roles")
    user = {"HULEEDU_DB_USER": "second"}
    assert reset(school, env=user) == rebuilt_for(SETTINGS)
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'note'"
    assert ask(school.url("alpha"), owner) == [("second",)]
    assert reset(school).detail == COPIED
    assert ask(school.url("alpha"), owner) == [("huleedu_user",)]


def test_another_environment_causes_a_rebuild_and_has_its_own_template(school: Monorepo) -> None:
    testing = {"HULEEDU_ENVIRONMENT": "testing"}
    assert reset(school, env=testing).detail == REBUILT
    assert reset(school, env=testing).detail == COPIED
    assert reset(school).detail == COPIED


def test_a_variable_of_the_process_overrides_the_one_in_the_file(school: Monorepo) -> None:
    """Migrations and seeds read the variable of the process, not that of `.env`."""
    south = {"SCHOOL": "south"}
    assert reset(school, env=south).detail == REBUILT
    assert ask(school.url("alpha"), SCHOOL) == [("south",)]
    assert reset(school).detail == COPIED
    assert ask(school.url("alpha"), SCHOOL) == [("north",)]


def test_after_switching_branches_both_ways_the_templates_are_valid(school: Monorepo) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *arguments], cwd=school.root, check=True, capture_output=True)

    git("init", "--initial-branch", "trunk")
    git("add", ".")
    git("commit", "--message", "Begin")
    reset(school, "alpha", "--fresh")
    git("switch", "--create", "feature")
    school.add_revision("alpha", "c3", "b2", "CREATE TABLE of_feature ()")
    git("add", ".")
    git("commit", "--message", "Add")
    assert reset(school).detail == REBUILT
    git("switch", "trunk")
    assert reset(school).detail == COPIED
    assert ask(school.url("alpha"), "SELECT to_regclass('of_feature')") == [(None,)]
    git("switch", "feature")
    assert reset(school).detail == COPIED
    assert ask(school.url("alpha"), "SELECT version_num FROM alembic_version") == [("c3",)]


def test_the_three_templates_used_last_are_kept(school: Monorepo) -> None:
    texts = [f"text {number}" for number in range(4)]
    for text in texts[:3]:
        school.write("data/text.csv", text)
        assert reset(school).detail == REBUILT
    # Makes the oldest template the one that was used last.
    school.write("data/text.csv", texts[0])
    assert reset(school).detail == COPIED
    school.write("data/text.csv", texts[3])
    assert reset(school).detail == REBUILT
    assert len(templates(school)) == 3
    for text in (texts[0], texts[2], texts[3]):
        school.write("data/text.csv", text)
        assert reset(school).detail == COPIED
    school.write("data/text.csv", texts[1])
    assert reset(school).detail == REBUILT


def test_fresh_ignores_a_valid_template(school: Monorepo) -> None:
    assert reset(school, "alpha", "--fresh") == Reset(REBUILT, "rebuilt: --fresh")
    assert reset(school).detail == COPIED


# Unusual directories.


@pytest.fixture(scope="module")
def irregular() -> Iterator[Monorepo]:
    """Services with their revisions and modules in unusual places."""
    with new_monorepo(["alpha", "beta"]) as made:
        without_initdb(made)
        _move(made, "alpha", "alembic", "migrations/alpha")
        made.write(
            "services/alpha_service/alembic.ini",
            "[alembic]\nscript_location = ../../migrations/alpha\nprepend_sys_path = .\n",
        )
        _move(made, "beta", "alembic/versions", "migrations/beta")
        made.path("services/beta_service/alembic/versions").symlink_to(made.path("migrations/beta"))
        made.write(f"{SEEDS}/stories/__init__.py", "TEXT = 'story'\n")
        made.write(f"{SEEDS}/seed_helpers.py", "TEXT = 'helper'\n")
        made.write("tools/common.py", "TEXT = 'common'\n")
        made.write("tools/tables/__init__.py", FINDS_ITS_MODULES)
        made.write("tools/tables/one.py", "TEXT = 'one'\n")
        made.write("tasks.py", f"{USES_TOOLS}import common\n{made.read('tasks.py')}")
        made.write(f"{SEEDS}/seed_alpha.py", SEED_OF_MODULES)
        made.invoke("db.reset")
        yield made


def _move(made: Monorepo, name: str, directory: str, target: str) -> None:
    made.path(target).parent.mkdir(exist_ok=True)
    made.path(f"services/{name}_service/{directory}").rename(made.path(target))


USES_TOOLS = """\
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent / "tools"))
"""
FINDS_ITS_MODULES = """\
import importlib
import pkgutil

TEXT = "+".join(
    importlib.import_module(f"{__name__}.{module.name}").TEXT
    for module in pkgutil.iter_modules(__path__)
)
"""
SEED_OF_MODULES = """\
import common
import seed_helpers
import stories
import tables

TEXTS = [common.TEXT, seed_helpers.TEXT, stories.TEXT, tables.TEXT]


async def seed(connection):
    for number, text in enumerate(TEXTS):
        await connection.execute("INSERT INTO note VALUES ($1, $2)", number, text)
"""


@pytest.mark.parametrize(
    ("name", "edit", "part"),
    [
        pytest.param(
            "alpha",
            appended("migrations/alpha/env.py"),
            "migrations/alpha/env.py",
            id="env.py elsewhere",
        ),
        pytest.param(
            "alpha",
            appended("migrations/alpha/versions/a1.py"),
            "migrations/alpha/versions/a1.py",
            id="revision elsewhere",
        ),
        pytest.param(
            "beta",
            appended("migrations/beta/a1.py"),
            "migrations/beta/a1.py",
            id="revision behind a link",
        ),
        pytest.param(
            "alpha",
            written(f"{SEEDS}/stories/__init__.py", "TEXT = 'tale'\n"),
            f"{SEEDS}/stories/__init__.py",
            id="seed's package",
        ),
        pytest.param(
            "alpha",
            written(f"{SEEDS}/seed_helpers.py", "TEXT = 'help'\n"),
            f"{SEEDS}/seed_helpers.py",
            id="named like a seed",
        ),
        pytest.param(
            "alpha",
            written("tools/common.py", "TEXT = 'usual'\n"),
            "tools/common.py",
            id="loaded by tasks.py",
        ),
        pytest.param(
            "alpha",
            written("tools/tables/two.py", "TEXT = 'two'\n"),
            "the entries of tools/tables",
            id="new in a package",
        ),
    ],
)
def test_an_edit_in_an_unusual_directory_causes_a_rebuild(
    irregular: Monorepo, name: str, edit: Edit, part: str
) -> None:
    edit(irregular)
    assert reset(irregular, name) == rebuilt_for(part)


SHARED = """\
from functools import cache
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
TEXT = DATA.joinpath("at_import.csv").read_text()


@cache
def later():
    return DATA.joinpath("later.csv").read_text()
"""
SEED_OF_SHARED = """\
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "libs"))
import shared


async def seed(connection):
    for number, text in enumerate([shared.TEXT, shared.later()]):
        await connection.execute("INSERT INTO note VALUES ($1, $2)", number, text)
    read = Path(__file__).parents[2].joinpath("data/{name}.csv").read_text
    text = {reading}
    await connection.execute("INSERT INTO note VALUES (2, $1)", text)
"""


IN_A_THREAD = "await asyncio.get_running_loop().run_in_executor(None, read)"


@pytest.fixture(scope="module")
def sharing() -> Iterator[Monorepo]:
    """Services whose seeds share a module that reads data once."""
    names = ["alpha", "beta"]
    with new_monorepo(names) as made:
        without_initdb(made)
        made.write("libs/shared.py", SHARED)
        for name in names:
            seed = SEED_OF_SHARED.format(name=name, reading=IN_A_THREAD)
            made.write(f"{SEEDS}/seed_{name}.py", seed)
        for name in ("at_import", "later", *names):
            made.write(f"data/{name}.csv", name)
        made.invoke("db.reset")
        yield made


@pytest.mark.parametrize("file", ["at_import", "later"])
def test_data_that_a_shared_module_reads_is_an_input_of_every_service_that_imports_it(
    sharing: Monorepo, file: str
) -> None:
    assert {done.detail for done in resets(sharing).values()} == {COPIED}
    sharing.write(f"data/{file}.csv", "changed")
    assert {done.detail for done in resets(sharing).values()} == {REBUILT}


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_data_that_a_thread_reads_is_an_input(sharing: Monorepo, name: str) -> None:
    resets(sharing)
    sharing.write(f"data/{name}.csv", "changed")
    assert reset(sharing, name).detail == REBUILT


def test_data_that_a_shared_module_reads_for_one_service_is_no_input_of_another() -> None:
    names = ["alpha", "beta"]
    with new_monorepo(names) as made:
        without_initdb(made)
        made.write("libs/shared.py", SHARED.replace("@cache", ""))
        for name in names:
            seed = SEED_OF_SHARED.format(name=name, reading="read()")
            made.write(f"{SEEDS}/seed_{name}.py", seed)
        for name in ("at_import", "later", *names):
            made.write(f"data/{name}.csv", name)
        made.invoke("db.reset")
        made.write("data/alpha.csv", "changed")
        details = {name: done.detail for name, done in resets(made).items()}
        assert details == {"alpha": REBUILT, "beta": COPIED}
        made.write("data/at_import.csv", "changed")
        assert {done.detail for done in resets(made).values()} == {REBUILT}


def test_a_library_installed_for_one_service_causes_a_rebuild_of_that_service() -> None:
    with new_monorepo(["alpha", "beta"]) as made:
        without_initdb(made)
        directory = made.path("services/alpha_service/.venv")
        venv.create(directory, symlinks=True, with_pip=False)
        (packages,) = directory.glob("lib/python*/site-packages")
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (packages / "ours.pth").write_text(ours)
        amend(made, alpha={"python": ".venv/bin/python"})
        made.invoke("db.reset")
        assert reset(made).detail == COPIED
        (packages / "library-1.0.dist-info").mkdir()
        assert reset(made) == rebuilt_for(f"the packages in {packages.relative_to(made.root)}")
        assert reset(made, "beta").detail == COPIED
