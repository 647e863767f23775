"""The rows about the pytest plugin, which are measured inside runs of pytest."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import run
from benchmarks.measure import Timing
from benchmarks.monorepo import Monorepo
from benchmarks.table import Line, ratio

SERVICE = "class_management"
WORKERS = 2
# Databases of each side in one run of pytest.
DATABASES = 25
CONFTEST = f"""\
from huleedu_tasks.testing import service_database

{SERVICE} = service_database("{SERVICE}")
"""
ONE_BY_ONE = f"""\
import asyncio
import json
import time
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest

begun = []


@pytest.mark.parametrize("number", range({DATABASES} + 1))
def test_database({SERVICE}, number):
    begun.append(time.perf_counter())


def test_bare({SERVICE}):
    async def measure():
        admin = await asyncpg.connect({SERVICE}.dsn, database="postgres")
        template = await admin.fetchval(
            "SELECT datname FROM pg_database WHERE NOT datallowconn"
            " AND starts_with(datname::text, 'pytest_head_huleedu_{SERVICE}')"
        )
        for _ in range({DATABASES}):
            began = time.perf_counter()
            await admin.execute(f'CREATE DATABASE bare TEMPLATE "{{template}}" STRATEGY file_copy')
            await admin.execute("DROP DATABASE bare")
            yield time.perf_counter() - began
        await admin.close()

    async def collect():
        return [seconds async for seconds in measure()]

    seconds = [after - before for before, after in pairwise(begun)]
    Path("times.json").write_text(json.dumps([seconds, asyncio.run(collect())]))
"""
ALL_AT_ONCE = f"""\
import time
from pathlib import Path

import pytest

SERVICES = Path("services.txt").read_text().split()


@pytest.fixture
def began():
    return time.perf_counter()


@pytest.mark.parametrize("number", range({WORKERS}))
def test_first(began, databases, number):
    for name in SERVICES:
        databases[name]
    Path(f"first-{{number}}").write_text(str(time.perf_counter() - began))
"""


def each(bench: Bench) -> Iterator[Line]:
    """Give each test a database of one service, compared with a copy and a drop."""
    monorepo = bench.embedded
    write(monorepo, ONE_BY_ONE)
    pytest(monorepo)
    databases, bare = [], []
    for _ in range(bench.rounds):
        pytest(monorepo)
        measured = json.loads((monorepo.root / "times.json").read_text(encoding="utf-8"))
        databases += measured[0]
        bare += measured[1]
    timing, least = Timing.of(databases), Timing.of(bare)
    yield Line(
        row="test",
        measured="a test with a database of one service",
        timing=timing,
        beside="`CREATE DATABASE ... TEMPLATE` and `DROP DATABASE`, one connection",
        beside_timing=least,
        compared=ratio(timing, least),
        notes=f"{DATABASES} in each run of pytest",
    )


def first(bench: Bench) -> Iterator[Line]:
    """Give the first test of each worker a database of every service."""
    monorepo = bench.embedded
    names = [entry["name"] for entry in monorepo.entries]
    write_first(monorepo)
    pytest(monorepo, "-n", str(WORKERS))
    slowest = []
    for _ in range(bench.rounds):
        pytest(monorepo, "-n", str(WORKERS))
        slowest.append(max(float(file.read_text()) for file in monorepo.root.glob("first-*")))
    yield Line(
        row="first-test",
        measured=f"the first test with {len(names)} databases, {WORKERS} workers",
        timing=Timing.of(slowest),
        notes="the templates are valid, the servers are started; the slower worker",
    )


def write_first(monorepo: Monorepo) -> None:
    """Write the tests of which the first of each worker has a database of every service."""
    names = [entry["name"] for entry in monorepo.entries]
    (monorepo.root / "services.txt").write_text("\n".join(names), encoding="utf-8")
    write(monorepo, ALL_AT_ONCE)


def write(monorepo: Monorepo, tests: str) -> None:
    """Write tests of the plugin."""
    directory = monorepo.root / "measured"
    directory.mkdir(exist_ok=True)
    Path(directory, "conftest.py").write_text(CONFTEST, encoding="utf-8")
    Path(directory, "test_measured.py").write_text(tests, encoding="utf-8")


def pytest(monorepo: Monorepo, *arguments: str) -> None:
    """Run the tests that were written."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    run([*command, "measured"], cwd=monorepo.root, environment=monorepo.environment)
