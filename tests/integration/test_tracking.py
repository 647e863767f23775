"""Inputs of a process are recorded; in a child process, because audit hooks cannot be removed."""

import asyncio
import json
import os
import py_compile
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks import process
from huleedu_tasks.migrations.child import input_tracker, target_check

OBSERVED = """\
import importlib.util, json, os, sys
from pathlib import Path

def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

tracking = load("tracking", {tracking!r})
variables = load("targets", {targets!r}).ReadVariables()
reads = tracking.Reads()
sys.addaudithook(reads.handle_event)
tracking.watch_path_checks(reads)
tracking.watch_searches(reads)
tracking.watch_processes(reads)
tracking.drop_stale_bytecode()
sys.path[:0] = ["first", "second"]
"""
TOLD = """
names = ("files", "directories", "statuses", "modules", "untracked", "clocks", "addresses")
told = {name: getattr(reads, name) for name in names}
told.update(variables=variables.all_names, all_variables=variables.all_were_read)
print(json.dumps(told, default=sorted))
"""


def observe(directory: Path, code: str, **variables: str) -> dict[str, Any]:
    """Run code in a directory and return its recorded inputs, with relative paths."""
    told: dict[str, Any] = json.loads(
        output(directory, f"{code}\n{TOLD}", **variables).splitlines()[-1]
    )
    inside = f"{directory}{os.sep}"
    for kind in ("files", "directories", "statuses"):
        found = [path.removeprefix(inside) for path in told[kind] if path.startswith(inside)]
        told[kind] = sorted(found)
    return told


def output(directory: Path, code: str, **variables: str) -> str:
    """Run code while its inputs are recorded, and return its output."""
    head = OBSERVED.format(tracking=input_tracker.__file__, targets=target_check.__file__)
    command = [sys.executable, "-c", f"{head}{code}"]
    environment = {"PATH": os.environ["PATH"], **variables}
    running = process.run(command, cwd=directory, environment=environment, timeout=60)
    done = asyncio.run(running)
    assert done.returncode == 0, done.output
    return done.output


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a file, a link to it, and directories to import from."""
    directory = tmp_path / "place"
    for name in ("first", "second", "data"):
        (directory / name).mkdir(parents=True)
    (directory / "data/rows.txt").write_text("1")
    (directory / "now").symlink_to("data")
    (directory / "second/shared.py").write_text("N = 1\n")
    return directory


@pytest.mark.parametrize(
    "code",
    [
        "open('data/rows.txt').read()",
        "open('data/rows.txt', 'r+').read()",
        "open('data/rows.txt', 'a+').read()",
        "Path('data/rows.txt').read_text()",
        "os.read(os.open('data/rows.txt', os.O_RDONLY), 9)",
        "os.read(os.open(b'data/rows.txt', os.O_RDWR | os.O_CREAT), 9)",
        "d = os.open('data', os.O_RDONLY); os.read(os.open('rows.txt', os.O_RDONLY, dir_fd=d), 9)",
        "os.chdir('data'); open('rows.txt').read()",
        "import sqlite3; sqlite3.connect('file:data/rows.txt?mode=ro', uri=True)",
        "import sqlite3; sqlite3.connect('data/rows.txt')",
    ],
)
def test_a_file_is_recorded_however_it_is_opened(place: Path, code: str) -> None:
    assert "data/rows.txt" in observe(place, code)["files"]


@pytest.mark.parametrize(
    "code",
    [
        "open('data/new.txt', 'w').write('1'); open('data/new.txt').read()",
        "open('data/new.txt', 'x').write('1'); open('data/new.txt').read()",
        "os.mkdir('made'); open('made/new.txt', 'a+').read(); os.listdir('made')",
        "open('data/rows.txt', 'a').write('1')",
    ],
)
def test_a_file_that_the_process_creates_is_not_an_input(place: Path, code: str) -> None:
    told = observe(place, code)
    assert (told["files"], told["directories"]) == ([], [])


def test_a_file_that_is_appended_to_and_read_is_recorded(place: Path) -> None:
    code = "open('data/rows.txt', 'a').write('1'); open('data/rows.txt').read()"
    assert observe(place, code)["files"] == ["data/rows.txt"]


@pytest.mark.parametrize(
    "code",
    [
        "os.listdir('data')",
        "list(os.scandir(b'data'))",
        "list(Path('data').iterdir())",
        "list(Path('data').glob('*.csv'))",
        "list(os.walk('data'))",
        "os.listdir(os.open('data', os.O_RDONLY))",
        "list(os.fwalk('data'))",
        "import glob; glob.glob('data/*')",
    ],
)
def test_a_directory_is_recorded_however_it_is_listed(place: Path, code: str) -> None:
    assert "data" in observe(place, code)["directories"]


def test_the_working_directory_is_recorded(place: Path) -> None:
    told = observe(place, "os.chdir('data'); os.listdir()")
    assert told["directories"] == ["data"]


@pytest.mark.parametrize(
    "code",
    [
        "os.path.exists('data/none')",
        "Path('data/none').exists()",
        "Path('data/none').is_dir()",
        "os.path.isfile('data/none')",
        "os.path.lexists('data/none')",
        "os.access('data/none', os.R_OK)",
        "import shutil; shutil.which('data/none')",
        "d = os.open('data', os.O_RDONLY)\ntry: os.stat('none', dir_fd=d)\nexcept OSError: pass",
    ],
)
def test_a_path_that_is_checked_is_recorded(place: Path, code: str) -> None:
    assert "data/none" in observe(place, code)["statuses"]


@pytest.mark.parametrize(
    "code",
    [
        "Path('now').resolve()",
        "os.path.realpath('now/rows.txt')",
        "os.readlink('now')",
        "os.chdir('now')",
        "Path('now').is_symlink()",
    ],
)
def test_a_link_is_recorded_by_its_own_path(place: Path, code: str) -> None:
    assert "now" in observe(place, code)["statuses"]


def test_patched_functions_return_the_same_values(place: Path) -> None:
    code = """
assert os.stat("data") == os.stat(path="data")
assert os.stat in os.supports_dir_fd and os.open in os.supports_dir_fd
import shutil
assert shutil.rmtree.avoids_symlink_attacks
for wrong in (lambda: os.stat(), lambda: os.readlink("data"), lambda: os.stat("none")):
    try:
        wrong()
    except (TypeError, OSError):
        continue
    raise AssertionError
"""
    observe(place, code)


@pytest.mark.parametrize(
    "search",
    [
        "try: import {}\nexcept ImportError: pass",
        "try: importlib.import_module('{}')\nexcept ImportError: pass",
        "importlib.util.find_spec('{}')",
        "import importlib.machinery as m; m.PathFinder.find_spec('{}')",
    ],
)
@pytest.mark.parametrize("name", ["shared", "missing"])
def test_a_module_is_recorded_for_each_searched_directory(
    place: Path, search: str, name: str
) -> None:
    modules = observe(place, search.format(name))["modules"]
    assert name in modules[str(place / "first")]
    assert name in modules[str(place / "second")]


def test_a_search_is_recorded_relative_to_the_directory_of_its_time(place: Path) -> None:
    code = "os.chdir('data'); importlib.util.find_spec('shared'); os.chdir('..')"
    modules = observe(place, code)["modules"]
    assert "shared" in modules[str(place / "data/first")]
    assert "shared" not in modules.get(str(place / "first"), ())


def test_a_module_is_recorded_for_each_directory_of_its_package(place: Path) -> None:
    (place / "first/package").mkdir()
    (place / "first/package/__init__.py").write_text("")
    code = "try: import package.local\nexcept ImportError: pass"
    assert observe(place, code)["modules"][str(place / "first/package")] == ["local"]


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess; subprocess.run(['true'])",
        "os.system('true')",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "pid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)",
        "from multiprocessing import get_context\nget_context('spawn').Process(target=int).start()",
    ],
)
def test_a_started_process_cannot_be_tracked(place: Path, code: str) -> None:
    (reason,) = observe(place, code)["untracked"]
    assert reason.endswith("which may read anything")


def test_standard_modules_that_inspect_the_machine_are_ignored(place: Path) -> None:
    told = observe(place, "import ctypes.util, platform; ctypes.util.find_library('c')")
    assert told["untracked"] == []


# The environment.


@pytest.mark.parametrize(
    "code",
    [
        "os.environ['REGION']",
        "os.environ.get('REGION')",
        "os.getenv('REGION')",
        "os.getenvb(b'REGION')",
        "os.environb[b'REGION']",
        "'REGION' in os.environ",
        "os.path.expandvars('$REGION')",
        "'{REGION}'.format_map(os.environ)",
        "os.environ.setdefault('REGION', '1')",
    ],
)
def test_a_variable_that_is_read_by_name_is_recorded(place: Path, code: str) -> None:
    told = observe(place, code, REGION="north")
    assert "REGION" in told["variables"]
    assert not told["all_variables"]


@pytest.mark.parametrize(
    "code",
    [
        "os.environ.copy()",
        "dict(os.environ)",
        "list(os.environ)",
        "len(os.environ)",
        "{name.lower() for name in os.environ}",
        "os.environb.copy()",
        "os.environ | {}",
    ],
)
def test_an_iteration_of_the_environment_is_recorded(place: Path, code: str) -> None:
    assert observe(place, code)["all_variables"]


# Bytecode and the clock.


def test_bytecode_that_is_older_than_its_source_is_not_loaded(place: Path) -> None:
    source = place / "first/edited.py"
    source.write_text("N = 1\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))
    told = "import edited; print('N is', edited.N)"
    assert "N is 1" in output(place, told)
    source.write_text("N = 2\n")
    os.utime(source, (1_700_000_000, 1_700_000_000))
    assert "N is 2" in output(place, told)
    assert "N is 2" in output(place, told)


def test_bytecode_without_a_source_is_recorded(place: Path) -> None:
    source = place / "first/compiled.py"
    source.write_text("N = 1\n")
    py_compile.compile(str(source), cfile=str(place / "first/compiled.pyc"))
    source.unlink()
    assert "first/compiled.pyc" in observe(place, "import compiled")["files"]


@pytest.mark.parametrize(
    "body",
    [
        "datetime.now()",
        "datetime.datetime.now(datetime.timezone.utc)",
        "datetime.utcnow()",
        "date.today()",
        "time.time()",
        "uuid.uuid4()",
        "uuid4()",
        "random.choice([1, 2])",
        "secrets.token_hex()",
        "os.urandom(4)",
        "[datetime.now() for _ in range(3)]",
        "(lambda: time.time_ns())()",
    ],
)
def test_a_revision_that_reads_the_clock_cannot_be_tracked(place: Path, body: str) -> None:
    (place / "first/a1.py").write_text(f"down_revision = None\n\ndef upgrade():\n    {body}\n")
    assert observe(place, "import a1")["clocks"] == ["a1.py reads the clock or random values"]


@pytest.mark.parametrize(
    "body",
    [
        "sa.func.now()",
        "sa.Column('at', sa.DateTime(), server_default=sa.func.now())",
        "datetime(2024, 1, 1).isoformat()",
        "random.Random(4).choice([1, 2])",
        "uuid.UUID(int=1)",
        "time.sleep(0)",
    ],
)
def test_a_revision_with_a_server_default_or_a_literal_time_can_be_tracked(
    place: Path, body: str
) -> None:
    (place / "first/a1.py").write_text(f"down_revision = None\n\ndef upgrade():\n    {body}\n")
    assert observe(place, "import a1")["clocks"] == []


def test_another_module_with_a_clock_can_be_tracked(place: Path) -> None:
    text = "import datetime\n\ndef utcnow():\n    return datetime.datetime.now()\n"
    (place / "first/models.py").write_text(text)
    assert observe(place, "import models")["clocks"] == []


@pytest.mark.parametrize(
    ("sql", "is_tracked"),
    [
        ("INSERT INTO t VALUES (now())", False),
        ("insert into t values (1, current_date + 7)", False),
        ("UPDATE t SET id = gen_random_uuid()", False),
        ("CREATE TABLE t AS SELECT now() AS n", False),
        ("CREATE MATERIALIZED VIEW v AS SELECT random()", False),
        ("WITH n AS (SELECT clock_timestamp() AS at) INSERT INTO t SELECT at FROM n", False),
        ("SELECT now()", False),
        ("CREATE TABLE t (id int); INSERT INTO t VALUES (now())", False),
        ("INSERT INTO t VALUES ('now'::timestamptz)", False),
        ("DO $$ BEGIN INSERT INTO t VALUES (now()); END $$", False),
        ("CREATE TABLE t (at timestamptz DEFAULT now())", True),
        ("ALTER TABLE t ALTER at SET DEFAULT current_timestamp", True),
        ("CREATE FUNCTION f() RETURNS int AS $$ SELECT now() $$ LANGUAGE sql", True),
        ("CREATE VIEW v (at) AS SELECT 1 -- now()", True),
        ("INSERT INTO t VALUES ('now() is a function')", True),
        ("INSERT INTO t (current) VALUES (1)", True),
        ("SELECT known()", True),
    ],
)
def test_a_statement_that_writes_the_time_cannot_be_tracked(sql: str, is_tracked: bool) -> None:
    reads = input_tracker.Reads()
    reads.record_statement(sql)
    assert bool(reads.clocks) != is_tracked


def test_log_files_of_an_sqlite_database_are_recorded(place: Path) -> None:
    sqlite3.connect(place / "data/reference.db").close()
    told = observe(place, "import sqlite3; sqlite3.connect('data/reference.db')")
    assert {"data/reference.db", "data/reference.db-wal"} <= set(told["files"])
