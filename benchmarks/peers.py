"""The rows about tests and large databases, beside other tools."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from benchmarks import testing
from benchmarks.bench import Bench
from benchmarks.children import run
from benchmarks.measure import FEW_ROUNDS, Side, Timing
from benchmarks.monorepo import USER, Monorepo, ask, copy_of_this, database_of, directory_of
from benchmarks.table import Line, ratio
from benchmarks.tools import installed_tools

SERVICE = "nlp"
NAME = "benchmark"
GIGABYTE = 10**9
# Bytes of one row, its header and its share of the page included.
ROW = 1024
FILL = f"""\
CREATE TABLE filling AS
SELECT number, repeat(md5(number::text), {(ROW - 64) // 32}) AS text
FROM generate_series(1, {GIGABYTE // ROW}) AS number
"""
CONFTEST = """\
import json
import os
import time
from pathlib import Path

import pytest
import pytest_alembic
from pytest_alembic.config import Config
from pytest_postgresql import factories

PLACES = json.loads(Path("places.json").read_text())


def migrated(place):
    def load(*, user, password, host, port, dbname, **_):
        login = f"{user}:{password}@{host}:{port}"
        os.environ[place["variable"]] = f"postgresql+asyncpg://{login}/{dbname}"
        before = Path.cwd()
        os.chdir(place["directory"])
        with pytest_alembic.runner(Config(config_options={"file": "alembic.ini"})) as runner:
            runner.migrate_up_to("heads")
        os.chdir(before)

    return load


for place in PLACES:
    server = factories.postgresql_noproc(
        **place["login"], dbname=f"peer_{place['name']}", load=[migrated(place)]
    )
    globals()[f"{place['name']}_server"] = server
    globals()[place["name"]] = factories.postgresql(f"{place['name']}_server")


@pytest.fixture
def began():
    return time.perf_counter()
"""
ONE_BY_ONE = f"""\
import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

begun = []


@pytest.mark.parametrize("number", range({testing.DATABASES} + 1))
def test_database({testing.SERVICE}, number):
    begun.append(time.perf_counter())


def test_all():
    seconds = [after - before for before, after in pairwise(begun)]
    Path("peer-times.json").write_text(json.dumps(seconds))
"""
ALL_AT_ONCE = f"""\
import json
import time
from pathlib import Path

import pytest

PLACES = json.loads(Path("places.json").read_text())


@pytest.mark.parametrize("number", range({testing.WORKERS}))
def test_first(began, request, number):
    for place in PLACES:
        request.getfixturevalue(place["name"])
    Path(f"peer-first-{{number}}").write_text(str(time.perf_counter() - began))
"""


def each_beside(bench: Bench) -> Iterator[Line]:
    """Give each test a database of one service, beside pytest-postgresql."""
    monorepo, tools = bench.embedded, installed_tools(bench).programs
    _write_peer(monorepo, ONE_BY_ONE)
    testing.write(monorepo, testing.ONE_BY_ONE)
    testing.pytest(monorepo)
    ours, theirs = [], []
    for _ in range(bench.rounds):
        testing.pytest(monorepo)
        ours += json.loads((monorepo.root / "times.json").read_text(encoding="utf-8"))[0]
        _peer_pytest(monorepo, tools)
        theirs += json.loads((monorepo.root / "peer-times.json").read_text(encoding="utf-8"))
    yield _line("test-beside", "a test with a database of one service", ours, theirs)


def first_beside(bench: Bench) -> Iterator[Line]:
    """Give the first tests of two workers a database of every service, beside other plugins."""
    monorepo, tools = bench.embedded, installed_tools(bench).programs
    _write_peer(monorepo, ALL_AT_ONCE)
    testing.write_first(monorepo)
    workers = ("-n", str(testing.WORKERS))
    testing.pytest(monorepo, *workers)
    ours, theirs = [], []
    for _ in range(min(bench.rounds, FEW_ROUNDS)):
        testing.pytest(monorepo, *workers)
        ours.append(_slowest(monorepo, "first-*"))
        _peer_pytest(monorepo, tools, *workers)
        theirs.append(_slowest(monorepo, "peer-first-*"))
    count = len(monorepo.entries)
    measured = f"the first test with {count} databases, {testing.WORKERS} workers"
    yield _line("first-test-beside", measured, ours, theirs)


def large(bench: Bench) -> Iterator[Line]:
    """Save and restore a database of a gigabyte, beside DSLR on the same server."""
    dslr = str(installed_tools(bench).programs / "dslr")
    with copy_of_this(bench.scratch, "large", HULEEDU_PROVIDER="embedded") as monorepo:
        monorepo.invoke("db.reset", "--service", SERVICE)
        entry = next(entry for entry in monorepo.entries if entry["name"] == SERVICE)
        url = _url(monorepo, entry["port"], database_of(entry))
        ask({**monorepo.login(entry["port"]), "database": database_of(entry)}, FILL)
        save, restore = ("db.snapshot", NAME), ("db.restore", NAME)

        def ours(*arguments: str) -> None:
            monorepo.invoke(*arguments, "--service", SERVICE)

        def theirs(*arguments: str) -> None:
            run([dslr, *arguments], cwd=monorepo.root, environment={"DATABASE_URL": url})

        def flush() -> None:
            # One side does not write what the other one has left in memory.
            ask(monorepo.login(entry["port"]), "CHECKPOINT")
            os.sync()

        def without_ours() -> None:
            ours("db.snapshots", "--delete", NAME)
            flush()

        def without_theirs() -> None:
            theirs("delete", NAME)
            flush()

        ours(*save)
        theirs("snapshot", NAME)
        saved, saved_by_dslr, restored, restored_by_dslr = bench.measure_few(
            Side(run=lambda: ours(*save), prepare=without_ours),
            Side(run=lambda: theirs("snapshot", NAME), prepare=without_theirs),
            Side(run=lambda: ours(*restore), prepare=flush),
            Side(run=lambda: theirs("restore", NAME), prepare=flush),
        )
    for command, mine, other in (
        (save, saved, saved_by_dslr),
        (restore, restored, restored_by_dslr),
    ):
        yield Line(
            row="large",
            measured=f"`invoke {' '.join(command)}` of a database of 1 GB",
            timing=mine,
            beside=f"DSLR: `dslr {command[0].removeprefix('db.')}`",
            beside_timing=other,
            compared=ratio(mine, other),
            notes="the restored-over database is kept for `db.undo`" if command is restore else "",
        )


def _line(row: str, measured: str, ours: list[float], theirs: list[float]) -> Line:
    timing, beside = Timing.of(ours), Timing.of(theirs)
    return Line(
        row=row,
        measured=measured,
        timing=timing,
        beside="the same with pytest-postgresql and pytest-alembic",
        beside_timing=beside,
        compared=ratio(timing, beside),
    )


def _slowest(monorepo: Monorepo, pattern: str) -> float:
    return max(float(file.read_text()) for file in monorepo.root.glob(pattern))


def _write_peer(monorepo: Monorepo, tests: str) -> None:
    """Write the tests of the other plugins, and where the servers and revisions are."""
    places = [_place(monorepo, entry) for entry in monorepo.entries]
    (monorepo.root / "places.json").touch(mode=0o600)
    (monorepo.root / "places.json").write_text(json.dumps(places), encoding="utf-8")
    directory = monorepo.root / "peers"
    directory.mkdir(exist_ok=True)
    (directory / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (directory / "test_peers.py").write_text(tests, encoding="utf-8")


def _place(monorepo: Monorepo, entry: Mapping[str, object]) -> dict[str, object]:
    directory = directory_of(dict(entry))
    return {
        "name": entry["name"],
        "directory": str(monorepo.root / directory),
        "variable": f"{Path(directory).name.upper()}_DATABASE_URL",
        "login": monorepo.login(int(str(entry["port"]))),
    }


def _peer_pytest(monorepo: Monorepo, programs: Path, *arguments: str) -> None:
    command = [str(programs / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run([*command, *arguments, "peers"], cwd=monorepo.root, environment={})


def _url(monorepo: Monorepo, port: int, database: str) -> str:
    return f"postgresql://{USER}:{quote(monorepo.password)}@localhost:{port}/{database}"
