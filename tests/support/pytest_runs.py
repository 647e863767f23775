"""Real runs of pytest with the plugin, in a child process in a monorepo."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from tests.support import fork_server
from tests.support.monorepo import LIMIT, Monorepo, clean_environment
from tests.support.postgres import ask

CONFTEST = """\
from huleedu_tasks.testing import service_database

alpha = service_database("alpha")
"""
_SUMMARY = re.compile(r"(\d+) (passed|failed|error|errors|skipped)")


@dataclass(frozen=True)
class PytestRun:
    """How a run of pytest ended."""

    code: int
    out: str

    @property
    def counts(self) -> dict[str, int]:
        """The numbers in the last line: passed, failed, error, skipped."""
        found = _SUMMARY.findall(self.out.strip().splitlines()[-1])
        return {name.removesuffix("s") if name == "errors" else name: int(n) for n, name in found}


def start_pytest(
    monorepo: Monorepo, *arguments: str, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start pytest in a monorepo; it is forked where `Monorepo.invoke` is."""
    arguments = ("-p", "no:cacheprovider", *arguments)
    every = clean_environment() | monorepo.environment | dict(env or {})
    environment = {name: value for name, value in every.items() if not name.startswith("PYTEST_")}
    if fork_server.is_possible(environment):
        server = fork_server.fork_server()
        return server.start(
            arguments, monorepo.root, environment, module="pytest", stderr=subprocess.STDOUT
        )
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=monorepo.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_pytest(
    monorepo: Monorepo, *arguments: str, env: Mapping[str, str] | None = None
) -> PytestRun:
    """Run pytest in a monorepo to its end."""
    process = start_pytest(monorepo, *arguments, env=env)
    out, _ = process.communicate(timeout=LIMIT)
    return PytestRun(process.returncode, out)


def passes(monorepo: Monorepo, tests: str, *arguments: str, conftest: str = CONFTEST) -> PytestRun:
    """Write a file with tests, and require that all of them pass."""
    write_tests(monorepo, tests, conftest=conftest)
    ran = run_pytest(monorepo, *arguments)
    assert ran.code == 0, ran.out
    return ran


def write_tests(monorepo: Monorepo, tests: str, *, conftest: str = CONFTEST) -> None:
    """Replace the tests of a monorepo."""
    monorepo.write("tests/conftest.py", conftest)
    monorepo.write("tests/test_it.py", tests)


def of_plugin(monorepo: Monorepo, name: str = "alpha") -> list[str]:
    """Return the databases of the plugin on the server that a service has for tests.

    Its templates are left out, and what they are copied from. Embedded servers run during a test
    run only.
    """
    file = monorepo.state / "testing/ports.json"
    url = monorepo.url(name, database="postgres")
    if file.exists():
        port = json.loads(file.read_text())[f"{name}_db"]
        url = url.replace(f":{monorepo.port(name)}/", f":{port}/")
    names = [name for (name,) in ask(url, "SELECT datname FROM pg_database ORDER BY datname")]
    return [
        name
        for name in names
        if name.startswith("pytest_") and not name.startswith(("pytest_head_", "pytest_seeded_"))
    ]


def servers_for_tests(monorepo: Monorepo) -> list[int]:
    """Return the pids of the embedded servers for tests that run."""
    files = monorepo.state.glob("testing/embedded/postgresql-*/*/data/postmaster.pid")
    pids = [int(file.read_text().splitlines()[0]) for file in files]
    return [pid for pid in pids if psutil.pid_exists(pid)]
