"""Processes forked from the fork server end with their request, and with the server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import psutil
import pytest

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.migrations.child.fork_loop import DRIVER, LIBRARIES
from huleedu_tasks.migrations.forkserver import EARLY_MODULES, NotForked, WarmWorkers
from huleedu_tasks.process import Completed
from tests.support.monorepo import wait_until

CHILD = "warm_child"
SOURCE = """\
import os
import sys
import time


def main():
    file, seconds = sys.argv[1:]
    with open(file, "w") as written:
        written.write(str(os.getpid()))
    time.sleep(float(seconds))
    return 0
"""


class Workers(WarmWorkers):
    """Workers that write their process id to a file."""

    def __init__(self, directory: Path) -> None:
        super().__init__(os.environ)
        self.directory = directory

    async def write(self, name: str, seconds: float = 0) -> Completed:
        """Fork a process that writes the file and sleeps."""
        arguments = [str(self.directory / name), str(seconds)]
        return await self.run(
            arguments, cwd=self.directory, environment={}, timeout=60, module=CHILD
        )

    async def has_written(self, name: str) -> int:
        """Wait for a file, and return the process id in it."""
        file = self.directory / name
        await asyncio.to_thread(wait_until, lambda: file.exists() and bool(file.read_text()))
        return int(file.read_text())


@pytest.fixture(scope="module", autouse=True)
def scripts() -> None:
    """Execute the package's scripts, each in a new interpreter."""


@pytest.fixture
async def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
    (tmp_path / f"{CHILD}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    made = Workers(tmp_path)
    yield made
    await made.aclose()


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def fork_server() -> psutil.Process:
    found = psutil.Process().children()
    (server,) = [child for child in found if child.cmdline()[-1].endswith("fork_loop.py")]
    return server


async def test_a_run_that_is_cancelled_before_its_process_exists_runs_nothing(
    workers: Workers,
) -> None:
    assert (await workers.write("first")).returncode == 0
    server = fork_server()
    server.suspend()
    cancelled = asyncio.ensure_future(workers.write("cancelled"))
    await asyncio.sleep(0.2)  # The request is in the pipe.
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    server.resume()
    assert (await workers.write("last")).returncode == 0
    assert not (workers.directory / "cancelled").exists()


async def test_a_cancelled_run_ends_its_process(workers: Workers) -> None:
    running = asyncio.ensure_future(workers.write("running", 60))
    pid = await workers.has_written("running")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not is_running(pid)


async def test_processes_end_with_the_fork_server(workers: Workers) -> None:
    running = asyncio.ensure_future(workers.write("running", 60))
    pid = await workers.has_written("running")
    os.kill(fork_server().pid, signal.SIGKILL)
    assert (await running).returncode == -signal.SIGKILL
    await asyncio.to_thread(wait_until, lambda: not is_running(pid))
    with pytest.raises(NotForked, match="the fork server has ended"):
        await workers.write("never")


async def test_a_request_that_the_fork_server_did_not_take_is_an_error_and_ran_nothing(
    workers: Workers,
) -> None:
    assert (await workers.write("first")).returncode == 0
    server = fork_server()
    server.suspend()
    asked = asyncio.ensure_future(workers.write("asked"))
    await asyncio.sleep(0.2)  # The request is in the pipe.
    server.kill()
    with pytest.raises(NotForked, match="the fork server has ended"):
        await asked
    assert not (workers.directory / "asked").exists()


# Where a forked process would differ from a new interpreter.

IMPORTED = """\
import contextlib, importlib, json, sys
for name in {names}:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def imported(*names: str) -> set[str]:
    """Return the top-level modules of a new interpreter that has imported some."""
    code = IMPORTED.format(names=names)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(json.loads(ran.stdout))


def test_the_modules_that_only_the_fork_server_imports_are_known() -> None:
    early = imported(DRIVER, *LIBRARIES) - imported("alembic.config")
    public = {name for name in early & sys.stdlib_module_names if not name.startswith("_")}
    assert public <= set(EARLY_MODULES)


@pytest.mark.parametrize("path", ["secrets.py", "queue/__init__.py"])
def test_a_service_with_a_module_that_would_not_be_found_gets_a_new_interpreter(
    tmp_path: Path, path: str
) -> None:
    assert WarmWorkers.can_fork(os.environ, tmp_path)
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
    assert not WarmWorkers.can_fork(os.environ, tmp_path)


@pytest.mark.parametrize("name", ["alembic", "secrets"])
def test_a_module_in_the_python_path_that_would_not_be_found_does_as_well(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # A directory of migrations is no package.
    (tmp_path / name).mkdir()
    assert WarmWorkers.can_fork(os.environ, tmp_path / "orders_service")
    (tmp_path / name / "__init__.py").touch()
    assert not WarmWorkers.can_fork(os.environ, tmp_path / "orders_service")


async def test_a_forked_process_cannot_read_more_than_the_environment_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HULEEDU_PROD_DB_PASSWORD", "hidden")
    source = (
        "import pathlib\ndef main():\n    print(pathlib.Path('/proc/self/environ').read_bytes())\n"
    )
    (tmp_path / "environ_child.py").write_text(f"{source}    return 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = Settings(root=tmp_path, process=dict(os.environ), file={}, lines={})
    async with aclosing(WarmWorkers(settings.tool_environment())) as workers:
        done = await workers.run(
            [], cwd=tmp_path, environment={}, timeout=60, module="environ_child"
        )
    assert "PATH=" in done.output
    assert "hidden" not in done.output
