"""A service that runs under uvicorn, in a process or a container of the test's own."""

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.db_runs import without_initdb
from tests.support.monorepo import (
    PASSWORD,
    USER,
    Monorepo,
    clean_environment,
    copy_of_this_monorepo,
    free_ports,
    wait_until,
)

NAME = "class_management"
DIRECTORY = f"services/{NAME}_service"
APP = f"services.{NAME}_service.app:app"
DEVELOPMENT = {"HULEEDU_DB_USER": USER, "HULEEDU_DB_PASSWORD": PASSWORD}
# A request that takes longer, in seconds, hangs.
LIMIT = 60


@dataclass(frozen=True)
class Answer:
    """The answer to one request."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Running:
    """A service that listens on a port of this machine."""

    port: int

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, None)

    def post(self, path: str, document: Mapping[str, Any]) -> Answer:
        return self._ask("POST", path, json.dumps(document))

    def is_up(self) -> bool:
        """Whether the process answers."""
        try:
            return self.get("/health").status == 200
        except (OSError, http.client.HTTPException):
            return False

    @contextmanager
    def asked_without_pause(self, path: str) -> Iterator[list[int]]:
        """Send requests one after another until the block ends; return their statuses."""
        statuses: list[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                try:
                    statuses.append(self.get(path).status)
                except Exception:
                    statuses.append(0)
                    raise

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            wait_until(lambda: statuses)
            yield statuses
        finally:
            done.set()
            thread.join()

    def _ask(self, method: str, path: str, body: str | None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()


@contextmanager
def monorepo_of_the_service() -> Iterator[Monorepo]:
    """Copy this repository, with the free port of the service's server in its `config.py` too."""
    with copy_of_this_monorepo() as made:
        port = next(entry["port"] for entry in made.services if entry["name"] == NAME)
        config = made.read(f"{DIRECTORY}/config.py")
        assert "port=5435" in config
        made.write(f"{DIRECTORY}/config.py", config.replace("port=5435", f"port={port}"))
        yield without_initdb(made)


@contextmanager
def running(monorepo: Monorepo, *flags: str, **variables: str) -> Iterator[Running]:
    """Run the service on this machine until the block ends."""
    (port,) = free_ports(1)
    process = start(monorepo, "--port", str(port), *flags, **variables)
    served = Running(port)
    try:
        wait_until(lambda: served.is_up() or process.poll() is not None)
        assert process.poll() is None, log(monorepo)
        yield served
    finally:
        process.terminate()
        process.wait(LIMIT)


def start(monorepo: Monorepo, *flags: str, **variables: str) -> "subprocess.Popen[bytes]":
    """Start uvicorn as a user would, with the login of development and these variables."""
    with _log(monorepo).open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "uvicorn", APP, "--no-access-log", *flags],
            cwd=monorepo.root,
            env={**clean_environment(), **DEVELOPMENT, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )


def log(monorepo: Monorepo) -> str:
    """Return the log of the service that was started last."""
    return _log(monorepo).read_text(encoding="utf-8")


def _log(monorepo: Monorepo) -> Path:
    return monorepo.root.parent / "uvicorn.log"
