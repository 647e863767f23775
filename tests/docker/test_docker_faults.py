"""Each fault is reported with cause, place and hint; the other services are not affected."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker import IDLE, SCRIPTS, Docked, new_docked, pause
from tests.support.monorepo import Ran, free_ports
from tests.support.observe import assert_no_password_on_screen
from tests.support.postgres import ask, forward

OTHER_PASSWORD = "0ther pa$$word"
SOCKET = Path("/var/run/docker.sock")
# A fake `docker` without the plugin Compose, with the exact output of the real one.
DOCKER_WITHOUT_COMPOSE = """\
#!/bin/sh
echo "{answer}" >&2
exit 125
"""
NO_PLUGIN = ["unknown flag: --ansi", "docker: unknown command: docker compose"]
# Imports what it needs, then changes to a user without groups.
CONNECT_WITHOUT_GROUPS = """\
import os, sys
import docker
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.compose.engine import Engine
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    Engine.connect({"DOCKER_HOST": "unix://" + sys.argv[1]})
except HuleEduError as error:
    print(error.message, error.hint)
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[Docked]:
    """Two services; the faults affect alpha."""
    with new_docked("alpha", "beta") as made:
        assert made.invoke("db.reset").code == 0
        yield made


@contextmanager
def defined(docked: Docked, **stated: Any) -> Iterator[None]:
    """Change alpha's compose service for a `with` block."""
    before = dict(docked.defined["alpha_db"])
    docked.define(alpha_db=stated)
    try:
        yield
    finally:
        docked.defined["alpha_db"] = before
        docked.define()


def assert_failed(ran: Ran, code: int, *texts: str) -> None:
    """Assert the exit code of a failed command and strings in its output."""
    output = ran.out + ran.err
    assert ran.code == code, output
    for text in texts:
        assert text in output
    assert "Traceback" not in output
    assert_no_password_on_screen(ran)


def assert_only_alpha_failed(
    docked: Docked, code: int, *texts: str, command: str = "db.reset"
) -> None:
    """Assert that a command fails for alpha, with these strings, and succeeds for beta."""
    if command != "db.up":
        ask(docked.url("beta"), "DELETE FROM note")
    ran = docked.invoke(*command.split(), "--json")
    assert_failed(ran, code)
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK"}
    alpha = ran.json["services"][0]
    for text in texts:
        assert text in " ".join([alpha["detail"], alpha["output"], alpha["hint"]])
    if command != "db.up":
        assert ask(docked.url("beta"), "SELECT count(*) FROM note") == [(2,)]


@pytest.mark.parametrize(
    ("variables", "texts"),
    [
        (
            {"DOCKER_HOST": "unix:///nowhere/docker.sock"},
            ["the socket /nowhere/docker.sock does not exist", "Start Docker"],
        ),
        ({"PATH": "/nowhere"}, ["`docker` is not on PATH", "Install Docker"]),
        (
            {"DOCKER_CONTEXT": "unheard-of"},
            ["Docker context 'unheard-of' does not exist", "docker context ls"],
        ),
    ],
)
def test_no_engine(pair: Docked, variables: Mapping[str, str], texts: list[str]) -> None:
    assert_failed(pair.invoke("db.reset", env=variables), 1, *texts)


def test_a_socket_without_a_listener(pair: Docked) -> None:
    path = pair.state / "stale.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    ran = pair.invoke("db.up", env={"DOCKER_HOST": f"unix://{path}"})
    assert_failed(
        ran, 1, f"No Docker Engine answered at {path}", "Start Docker", "HULEEDU_PROVIDER=embedded"
    )


@pytest.mark.parametrize(
    ("mode", "text"),
    [(0o060, "sudo usermod -aG"), (0o000, "is closed, and this account has no access")],
)
def test_a_socket_this_account_may_not_use(pair: Docked, mode: int, text: str) -> None:
    path = pair.state / f"closed-{mode}.sock"
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(path))
        path.chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", CONNECT_WITHOUT_GROUPS, path],
            capture_output=True,
            text=True,
            check=True,
        )
    assert text in done.stdout
    assert str(path) in done.stdout
    assert "HULEEDU_PROVIDER=embedded" in done.stdout


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory for PATH with the programs that the tasks need, without `docker`."""
    for name in ("sh", "tail"):
        program = shutil.which(name)
        assert program
        (tmp_path / name).symlink_to(program)
    return tmp_path


def add_program(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text)
    (directory / name).chmod(0o755)


@pytest.mark.parametrize("answer", NO_PLUGIN)
def test_docker_without_compose(pair: Docked, programs: Path, answer: str) -> None:
    add_program(programs, "docker", DOCKER_WITHOUT_COMPOSE.format(answer=answer))
    ran = pair.invoke("db.up", env={"PATH": str(programs)})
    assert_failed(ran, 1, "Docker is installed without Compose.", "Install Compose v2")


def test_docker_with_compose_v1_only(pair: Docked, programs: Path) -> None:
    add_program(programs, "docker", DOCKER_WITHOUT_COMPOSE.format(answer=NO_PLUGIN[0]))
    add_program(programs, "docker-compose", "#!/bin/sh\n")
    ran = pair.invoke("db.up", env={"PATH": str(programs)})
    assert_failed(ran, 1, "Only Compose v1 (`docker-compose`) is installed", "Install Compose v2")


@pytest.mark.parametrize("image", ["huleedu.invalid/nowhere:1", "Not A Name"])
def test_an_image_that_cannot_be_pulled(pair: Docked, image: str) -> None:
    texts = [f"The image {image} is not on this machine and could not be pulled", "docker login"]
    with defined(pair, image=image):
        assert_only_alpha_failed(pair, 1, *texts)


def test_a_port_of_another_process(pair: Docked) -> None:
    pair.compose("rm", "--stop", "--force", "alpha_db")
    port = pair.port("alpha")
    with socket.create_server(("127.0.0.1", port)):
        assert_only_alpha_failed(pair, 1, f"Port {port} is taken by pid {os.getpid()}", "Stop it")


def test_a_port_of_another_projects_container(pair: Docked) -> None:
    port = pair.port("alpha")
    pair.compose("rm", "--stop", "--force", "alpha_db")
    with new_docked("other") as other:
        other.define(other_db={"command": IDLE["command"], "ports": [f"127.0.0.1:{port}:5432"]})
        other.compose("up", "--detach")
        name = other.container("other_db").name
        assert_only_alpha_failed(
            pair, 1, f"is taken by the container {name} of {other.root}", "Stop it"
        )


def test_compose_files_without_the_service(pair: Docked) -> None:
    texts = ["have no service 'alpha_db' for alpha; they have beta_db", "'compose_service'"]
    pair.write_compose({"beta_db": pair.defined["beta_db"]})
    assert_only_alpha_failed(pair, 2, *texts)
    pair.define()


@pytest.mark.parametrize("published", ["127.0.0.1:{}:5432", "127.0.0.1:{}-65535:5432", ""])
def test_a_port_that_differs_between_compose_file_and_registry(
    pair: Docked, published: str
) -> None:
    (port,) = free_ports(1)
    publishes = f"publishes {port if published else 'no port'}"
    texts = [publishes, f"the registry states {pair.port('alpha')}", "State the same port in both"]
    with defined(pair, ports=[published.format(port)] if published else []):
        assert_only_alpha_failed(pair, 2, *texts)


def test_a_required_variable_that_is_not_set(pair: Docked) -> None:
    with defined(pair, image="${ALPHA_IMAGE:?state the image}"):
        ran = pair.invoke("db.up")
    assert_failed(
        ran, 2, "require the variable ALPHA_IMAGE", "alpha_db.image", "state the image", ".env"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [("services: [", "yaml"), ("services: {alpha_db: {nonsense: 1}}", "nonsense is not allowed")],
)
def test_an_invalid_compose_file(pair: Docked, text: str, reason: str) -> None:
    pair.write("docker-compose.yml", text)
    ran = pair.invoke("db.up")
    pair.define()
    assert_failed(ran, 2, "rejected the compose files", reason, "docker compose config")


def test_a_missing_compose_file(pair: Docked) -> None:
    ran = pair.invoke("db.up", env={"COMPOSE_FILE": "missing.yml"})
    assert_failed(
        ran, 2, f"The compose file {pair.root}/missing.yml does not exist", "COMPOSE_FILE"
    )


def test_a_container_that_exits_at_start(pair: Docked) -> None:
    cause = 'unrecognized configuration parameter "no_such_setting"'
    with defined(pair, command=["postgres", "-c", "no_such_setting=on"]):
        assert_only_alpha_failed(pair, 1, "exited (exit code 1)", cause, "docker volume rm")


def test_an_init_script_that_fails_in_a_container_that_compose_restarts(pair: Docked) -> None:
    """The image does not run the scripts again: the second start succeeds without their objects."""
    pair.compose("rm", "--stop", "--force", "alpha_db")
    pair.write("broken/init.sql", "SELECT 1 / 0;\n")
    volumes = [*pair.defined["alpha_db"]["volumes"], f"./broken:{SCRIPTS}:ro"]
    with defined(pair, restart="always", volumes=volumes):
        ran = pair.invoke("db.reset", "--volumes", "--service", "alpha")
        assert_failed(ran, 1, "division by zero")
        pair.write("broken/init.sql", "CREATE TABLE mended ();\n")
        assert pair.invoke("db.reset", "--service", "alpha").code == 0
    assert ask(pair.url("alpha"), "SELECT count(*) FROM mended") == [(0,)]


@pytest.mark.parametrize("command", ["db.up", "db.reset", "db.migrate"])
def test_a_volume_that_was_initialised_with_another_password(pair: Docked, command: str) -> None:
    another = {"HULEEDU_DB_PASSWORD": OTHER_PASSWORD}
    ran = pair.invoke(command, "--service", "alpha", env=another)
    texts = ["[volume-credentials]", "db.reset --volumes --service alpha"]
    assert_failed(ran, 1, *texts)


def test_a_paused_container(pair: Docked) -> None:
    container = pair.container("alpha_db")
    texts = [f"The container {container.name} is paused", f"docker unpause {container.name}"]
    pause(container)
    for command in ("db.up", "db.reset"):
        assert_only_alpha_failed(pair, 1, *texts, command=command)
    assert_failed(pair.invoke("db.reset", "--volumes", "--service", "alpha"), 1, *texts)
    container.unpause()


def test_a_start_that_takes_longer_than_allowed() -> None:
    with new_docked("alpha", mounts=[f"./slow:{SCRIPTS}:ro"]) as docked:
        docked.write("slow/init.sql", "SELECT pg_sleep(4);\n")
        ran = docked.invoke("db.up", env={"HULEEDU_START_TIMEOUT": "3"})
        texts = [
            "did not accept the login within 3 s",
            "Set HULEEDU_START_TIMEOUT to allow more time",
        ]
        assert_failed(ran, 1, *texts)
        assert docked.invoke("db.up").code == 0


class Engine:
    """A socket that forwards to the machine's engine until it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Close every connection and accept no new one, as an engine that stops does."""
        for open_socket in (self._listener, *self._open):
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(SOCKET))
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=forward, args=(source, sink), daemon=True).start()


@pytest.mark.parametrize("step", ["starting", "recreating", "recreating its volume"])
def test_an_engine_that_stops_during_a_reset(pair: Docked, step: str) -> None:
    engine = Engine(pair.state / f"{step.replace(' ', '-')}.sock")
    volumes = ["--volumes"] * ("volume" in step)
    tool = pair.start("db.reset", *volumes, env={"DOCKER_HOST": f"unix://{engine.path}"})
    assert tool.stderr
    seen = [next(line for line in tool.stderr if line.strip() == f"alpha: {step}")]
    engine.stop()
    out, err = tool.communicate()
    # For running containers it may already have answered all requests of a reset in place.
    if volumes or tool.returncode != 0:
        assert_failed(
            Ran(tool.returncode, out, "".join(seen) + err), 1, "The Docker Engine", "What to do"
        )
    assert pair.invoke("db.reset").code == 0
