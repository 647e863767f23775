"""Which module may use which library, and which floor which other."""

import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter

import pytest

from tests.support.imports import PACKAGE, is_module, modules
from tests.support.monorepo import PROJECT, clean_environment

MODULES = modules()

# From the top down: a room uses only rooms below it.
FLOORS = [
    "cli",
    "testing",
    "app",
    "db",
    "prod",
    "review",
    "check",
    "discovery",
    "env",
    "probe",
    "schema",
    "guard",
    "templates",
    "servers",
    "compose",
    "parallel",
    "shared_databases",
    "seeds",
    "migrations",
    "postgres",
    "screen",
    "instances",
    "ports",
    "repository",
    "process",
    "state_dir",
    "config",
    "report",
    "errors",
]

# Named after what a user types; none of them uses another.
COMMANDS = {"db", "prod", "review", "check", "discovery", "env"}
# Uses commands through `app` only.
PLUGIN = "testing"

# The modules that may import a library at run time; any module may import its types.
OWNERS = {
    "invoke": {"cli/__init__.py", "cli/command.py", "cli/program.py"},
    "rich": {"screen/console.py", "screen/tables.py"},
    "questionary": {"screen/prompts.py"},
    "jinja2": {"screen/formats/page.py"},
    "markupsafe": {"screen/formats/page.py", "screen/formats/highlighting.py"},
    "pygments": {"screen/formats/highlighting.py"},
    "prompt_toolkit": {"screen/prompts.py"},
    "asyncpg": {
        "postgres/connections.py",
        "postgres/clones.py",
        "postgres/databases.py",
        "postgres/server_errors.py",
        "postgres/inspection.py",
        "postgres/locks.py",
        "postgres/replacement.py",
        "postgres/version_tables.py",
        # In a separate process, on the connection that it was passed.
        "seeds/child.py",
        "seeds/sql.py",
        # On the connection of a test.
        "testing/database.py",
    },
    # Imported by pytest only; no command imports it.
    "pytest": {
        "testing/failures.py",
        "testing/fixtures.py",
        "testing/plugin.py",
        "testing/session.py",
    },
    "docker": {"compose/engine.py"},
    # The HTTP client of the Docker SDK, whose errors it does not translate.
    "requests": {"compose/engine.py"},
    "psutil": {"servers/cluster.py", "ports.py"},
    # One lock for a project's databases, one for each server.
    "filelock": {"db/run.py", "servers/embedded.py", "schema/throwaway_servers.py"},
    # In a separate process, possibly with another interpreter.
    "alembic": {
        "migrations/child/address_probe.py",
        "migrations/child/model_report.py",
        "migrations/child/new_revision_report.py",
        "migrations/child/revisions_report.py",
        "migrations/child/walk.py",
        "migrations/child/worker.py",
    },
    "sqlalchemy": {
        "migrations/child/first_connection.py",
        "migrations/child/address_probe.py",
        "migrations/child/model_report.py",
        "migrations/child/statement_observer.py",
        "migrations/child/worker.py",
        # The engines of a test.
        "testing/database.py",
    },
    "greenlet": {"migrations/child/address_probe.py"},
    "sqlglot": {"migrations/hazards.py", "migrations/required_rights.py"},
    "dotenv": {"config/dotenv.py"},
    "jsonschema_rs": {"config/registry.py"},
    "yaml": {"config/registry.py", "compose/yaml_files.py"},
    "subprocess": {"process.py"},
    "tomllib": {"migrations/alembic_config.py"},
    "configparser": {
        "migrations/alembic_config.py",
        # Patches it for Alembic, in a separate process.
        "migrations/child/worker.py",
    },
}

# The exceptions for names that access the outside, with the reason.
RESERVED = {
    r"os\.environb?|os\.getenvb?": {
        "config/settings.py",
        # Keeps the variables that a test has set.
        "testing/session.py",
        # Passes on PATH and similar variables to a server; reads no setting.
        "servers/cluster.py",
        # Read what their parent process has set, in a separate process.
        "migrations/child/first_connection.py",
        "migrations/child/fork_loop.py",
        "migrations/child/address_probe.py",
        "migrations/child/target_check.py",
        "migrations/child/worker.py",
        "seeds/child.py",
        # Compares a child's environment with that of this process; reads no setting.
        "migrations/forkserver.py",
    },
    r"os\.(exec|spawn|posix_spawn|popen|system|fork).*|asyncio\.create_subprocess_.*": {
        "process.py",
        # Child processes that fork, so that nothing depends on earlier work.
        "migrations/child/fork_loop.py",
        "migrations/child/address_probe.py",
    },
    r"print": {"screen/console.py"},
    r"input|sys\.stdin.*": {"screen/prompts.py"},
    r"(sys\.|os\._)?exit|SystemExit|invoke\.exceptions\.Exit": {
        "cli/command.py",
        # Before Invoke has a task.
        "cli/program.py",
        "cli/windows.py",
        # Exits a child process.
        "migrations/child/first_connection.py",
        "migrations/child/address_probe.py",
        "migrations/child/worker.py",
        # Catches the exit of a script.
        "seeds/child.py",
    },
}

HEAVY = {
    "alembic",
    "asyncpg",
    "docker",
    "dotenv",
    "filelock",
    "jinja2",
    "jsonschema_rs",
    "psutil",
    "pydantic",
    "pygments",
    "questionary",
    "requests",
    "rich",
    "sqlalchemy",
    "sqlglot",
    "yaml",
}


def room(name: str) -> str:
    """Return the room of a module by its dotted name; an empty string for the package."""
    return name.split(".")[1] if "." in name else ""


def test_a_room_uses_only_rooms_on_lower_floors() -> None:
    for module in MODULES:
        own = room(module.name)
        used = {room(other.name) for other in module.imports if other.library == PACKAGE} - {own}
        above = FLOORS[: FLOORS.index(own)] if own else []
        assert used.isdisjoint(above), module.path
        assert own not in {*COMMANDS, PLUGIN} or used.isdisjoint(COMMANDS), module.path
        assert used <= set(FLOORS), module.path


def test_every_room_has_a_floor() -> None:
    assert {room(module.name) for module in MODULES} - {""} <= set(FLOORS)


def test_no_two_modules_have_the_same_name() -> None:
    names = Counter(module.path.rpartition("/")[2] for module in MODULES)
    # `db.drift` and `prod.drift`, and so on.
    assert [name for name, number in names.items() if number > 1 and name[0] != "_"] == [
        "drift.py",
        "migrate.py",
        "status.py",
    ]


def test_no_two_test_modules_have_the_same_name() -> None:
    """The test directories are no packages: pytest imports one of two such modules only."""
    names = Counter(path.name for path in (PROJECT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    "file", ["CONTRIBUTING.md", "docs/*.md", ".ci/*", "pyproject.toml", "tests/packaging/*.py"]
)
def test_the_test_modules_that_a_file_names_exist(file: str) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PROJECT.glob(file))
    named = set(re.findall(r"\btests/[\w/]+\.py\b", text))
    assert [name for name in sorted(named) if not (PROJECT / name).is_file()] == []


def test_there_are_no_cyclic_imports() -> None:
    graph = {
        module.name: {
            imported.name for imported in module.imports if imported.name.startswith(f"{PACKAGE}.")
        }
        - {module.name}
        for module in MODULES
    }
    assert all(is_module(name) for used in graph.values() for name in used)
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owners_only(library: str) -> None:
    users = {
        module.path
        for module in MODULES
        for imported in module.imports
        if imported.library == library and not imported.for_types
    }
    assert users == OWNERS[library]


def test_every_library_has_owners() -> None:
    used = {imported.library for module in MODULES for imported in module.imports}
    assert used - sys.stdlib_module_names - {PACKAGE} == set(OWNERS) - sys.stdlib_module_names


@pytest.mark.parametrize("name", RESERVED)
def test_access_to_the_outside_is_reserved(name: str) -> None:
    users = {
        module.path
        for module in MODULES
        if any(re.fullmatch(name, mentioned) for mentioned in module.mentions)
    }
    assert users == RESERVED[name]


def test_a_heavy_library_is_imported_where_it_is_needed() -> None:
    for module in MODULES:
        at_once = {e.library for e in module.imports if not e.lazy and not e.for_types}
        assert at_once.isdisjoint(HEAVY), module.path


def test_a_list_of_the_tasks_loads_nothing_heavy() -> None:
    listed = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "invoke", "--list"],
        cwd=PROJECT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "db.reset" in listed.stdout
    loaded = {line.rpartition("|")[2].strip() for line in listed.stderr.splitlines()}
    assert f"{PACKAGE}.cli" in loaded
    # Invoke itself reads its own configuration with yaml.
    assert {name.partition(".")[0] for name in loaded}.isdisjoint(HEAVY - {"yaml"})
    # The code of a command is imported when it runs.
    rooms = COMMANDS - {"env"} | {"probe", "schema", "templates", "compose", "seeds", "migrations"}
    assert not [name for name in loaded if name.startswith(tuple(f"{PACKAGE}.{r}." for r in rooms))]
