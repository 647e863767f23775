"""Which module may use which library, and which floor which other."""

import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.support.imports import PACKAGE, Module, is_module, modules
from tests.support.monorepo import PROJECT, clean_environment

MODULES = modules()
EVERY_MODULE = pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.path))

# From the top down: a room uses only rooms below it.
FLOORS = [
    "cli",
    "app",
    "db",
    "prod",
    "check",
    "discovery",
    "env",
    "probe",
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
    "ports",
    "repository",
    "process",
    "state_dir",
    "config",
    "report",
    "errors",
]

# Named after what a user types; none of them uses another.
COMMANDS = {"db", "prod", "check", "discovery", "env"}

# Who may import a library when it runs; for its types alone anybody may.
OWNERS = {
    "invoke": {"cli/__init__.py", "cli/command.py", "cli/program.py"},
    "rich": {"screen/console.py", "screen/tables.py"},
    "questionary": {"screen/prompts.py"},
    "asyncpg": {
        "postgres/connections.py",
        "postgres/clones.py",
        "postgres/databases.py",
        "postgres/failures.py",
        "postgres/inspection.py",
        "postgres/locks.py",
        "postgres/replacing.py",
        # In a process of its own, on the connection it was given.
        "seeds/child.py",
        "seeds/sql.py",
    },
    "docker": {"compose/engine.py"},
    # What the Docker SDK talks with, and lets through where it fails.
    "requests": {"compose/engine.py"},
    "psutil": {"servers/cluster.py", "ports.py"},
    # One lock for a project's databases, one for each server.
    "filelock": {"db/development.py", "servers/embedded.py"},
    # In a process of its own, maybe with another interpreter.
    "alembic": {
        "migrations/child/probe.py",
        "migrations/child/script_directory.py",
        "migrations/child/worker.py",
    },
    "sqlalchemy": {
        "migrations/child/env_py_url.py",
        "migrations/child/probe.py",
        "migrations/child/worker.py",
    },
    "greenlet": {"migrations/child/probe.py"},
    "sqlglot": {"migrations/hazards.py", "migrations/required_rights.py"},
    "dotenv": {"config/settings.py", "compose/env_files.py"},
    "jsonschema_rs": {"config/registry.py"},
    "yaml": {"config/registry.py", "compose/yaml_files.py"},
    "subprocess": {"process.py"},
}

# Who may mention what reaches outside, and why, where it is not the module made for it.
RESERVED = {
    r"os\.environb?|os\.getenvb?": {
        "config/settings.py",
        # Hands PATH and the like on to a server; nothing is set by them.
        "servers/cluster.py",
        # Take what their parent has put there, in a process of their own.
        "migrations/child/env_py_url.py",
        "migrations/child/fork_loop.py",
        "migrations/child/probe.py",
        "migrations/child/target.py",
        "migrations/child/worker.py",
        "seeds/child.py",
        # Compares a child's environment with ours: nothing is set by it.
        "migrations/forkserver.py",
    },
    r"os\.(exec|spawn|posix_spawn|popen|system|fork).*|asyncio\.create_subprocess_.*": {
        "process.py",
        # Child processes that fork, so that nothing depends on what was done before.
        "migrations/child/fork_loop.py",
        "migrations/child/probe.py",
    },
    r"print": {"screen/console.py"},
    r"input|sys\.stdin.*": {"screen/prompts.py"},
    r"(sys\.|os\._)?exit|SystemExit|invoke\.exceptions\.Exit": {
        "cli/command.py",
        # Before Invoke has a task.
        "cli/windows.py",
        # In a child process, whose end it is.
        "migrations/child/env_py_url.py",
        "migrations/child/fork_loop.py",
        "migrations/child/probe.py",
        "migrations/child/worker.py",
        # A script that exits is caught here.
        "seeds/child.py",
    },
}

HEAVY = {
    "alembic",
    "asyncpg",
    "docker",
    "dotenv",
    "filelock",
    "jsonschema_rs",
    "psutil",
    "pydantic",
    "questionary",
    "requests",
    "rich",
    "sqlalchemy",
    "sqlglot",
    "yaml",
}


def room(name: str) -> str:
    """Return the room of a module by its dotted name; none for the package itself."""
    return name.split(".")[1] if "." in name else ""


@EVERY_MODULE
def test_a_room_uses_only_rooms_on_lower_floors(module: Module) -> None:
    own = room(module.name)
    used = {room(each.name) for each in module.imports if each.library == PACKAGE} - {own}
    above = FLOORS[: FLOORS.index(own)] if own else []
    assert used.isdisjoint(above)
    assert own not in COMMANDS or used.isdisjoint(COMMANDS)
    assert used <= set(FLOORS)


def test_every_room_has_a_floor() -> None:
    assert {room(module.name) for module in MODULES} - {""} <= set(FLOORS)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module.name: {each.name for each in module.imports if each.name.startswith(f"{PACKAGE}.")}
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
        for each in module.imports
        if each.library == library and not each.for_types
    }
    assert users == OWNERS[library]


def test_every_library_has_owners() -> None:
    used = {each.library for module in MODULES for each in module.imports}
    assert used - sys.stdlib_module_names - {PACKAGE} == set(OWNERS) - sys.stdlib_module_names


@pytest.mark.parametrize("name", RESERVED)
def test_what_reaches_outside_is_reserved(name: str) -> None:
    users = {
        module.path
        for module in MODULES
        if any(re.fullmatch(name, mentioned) for mentioned in module.mentions)
    }
    assert users == RESERVED[name]


@EVERY_MODULE
def test_a_heavy_library_is_imported_where_it_is_needed(module: Module) -> None:
    at_once = {e.library for e in module.imports if not e.lazy and not e.for_types}
    assert at_once.isdisjoint(HEAVY)


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
    # Nor is what a command does, which is imported when it runs.
    rooms = COMMANDS - {"env"} | {"probe", "templates", "compose", "seeds", "migrations"}
    assert not [name for name in loaded if name.startswith(tuple(f"{PACKAGE}.{r}." for r in rooms))]
