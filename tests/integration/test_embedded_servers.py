"""Embedded servers: started, stopped, repaired, moved, and distinguished from other servers."""

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from huleedu_tasks.config.registry import load_registry
from huleedu_tasks.postgres.binaries import package_directory
from huleedu_tasks.servers.embedded import server_account
from huleedu_tasks.state_dir import is_reachable
from tests.support.db_runs import app_of, development_of, without_initdb
from tests.support.monorepo import (
    PASSWORD,
    PROJECT,
    USER,
    Monorepo,
    clean_environment,
    empty_monorepo,
    free_ports,
    is_dead,
    new_monorepo,
    wait_until,
)
from tests.support.postgres import (
    ask,
    can_listen,
    changes,
    connect,
    fetch,
    is_listening,
    log_every_statement,
    served_at,
    wait_for,
)

NOTES = "SELECT text FROM note ORDER BY id"
SEEDED = [("first",), ("second",)]
BOTH = ("alpha", "beta")
# User and group id of an account without privileges.
ORDINARY_ID = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def home() -> Iterator[Monorepo]:
    """Two services after a reset; each test leaves their data, and finds its servers itself."""
    with new_monorepo(["alpha", "beta"]) as made:
        assert made.invoke("db.reset").code == 0
        yield made


def up(monorepo: Monorepo, **options: Any) -> dict[str, str]:
    """Run `db.up` and return what it did for each service."""
    ran = monorepo.invoke("db.up", "--json", **options)
    assert ran.code == 0, ran.out + ran.err
    return {row["service"]: row["server"] for row in ran.json["services"]}


def ready(monorepo: Monorepo) -> None:
    """Bring the servers up, without the command line, for a test to begin with."""
    report = asyncio.run(development_of(app_of(monorepo)).up())
    assert report.exit_code == 0, report


def pids(monorepo: Monorepo) -> list[int]:
    return [monorepo.server_pid(entry["name"]) for entry in monorepo.services]


def data_of(monorepo: Monorepo, name: str) -> Path:
    (data,) = monorepo.state.glob(f"embedded/postgresql-*/{name}_db/data")
    return data


def env_file(*, user: str = USER, password: str = PASSWORD) -> str:
    return f"HULEEDU_DB_USER={user}\nHULEEDU_DB_PASSWORD='{password}'\n"


# Created, started, stopped.


def test_all_servers_are_copies_of_one_initdb(home: Monorepo) -> None:
    ready(home)
    sql = "SELECT system_identifier, current_setting('data_directory') FROM pg_control_system()"
    ((alpha, own_directory), (beta, other_directory)) = (
        ask(home.url(name), sql)[0] for name in ("alpha", "beta")
    )
    assert alpha == beta
    assert own_directory != other_directory
    assert len(home.data_directories()) == 3


def test_a_second_up_starts_nothing(home: Monorepo) -> None:
    ready(home)
    before = pids(home)
    assert up(home) == {"alpha": "running", "beta": "running"}
    assert pids(home) == before


def test_down_stops_the_servers_and_keeps_their_data(home: Monorepo) -> None:
    ready(home)
    servers = [psutil.Process(pid) for pid in pids(home)]
    assert home.invoke("db.down").code == 0
    assert all(map(is_dead, servers))
    assert not is_listening("127.0.0.1", home.port("alpha"))
    assert up(home) == {"alpha": "started", "beta": "started"}
    assert ask(home.url("alpha"), NOTES) == SEEDED


def test_down_for_one_service_leaves_the_other_running(home: Monorepo) -> None:
    ready(home)
    assert home.invoke("db.down", "--service", "alpha").code == 0
    assert ask(home.url("beta"), NOTES) == SEEDED
    assert up(home) == {"alpha": "started", "beta": "running"}


@pytest.mark.parametrize("directory", ["alpha_db", ".template"])
def test_an_incomplete_data_directory_is_rebuilt(monorepo: Monorepo, directory: str) -> None:
    version = app_of(monorepo).provider._version_directory  # type: ignore[attr-defined]
    half = version / directory / "data.partial"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("1\n")
    assert up(monorepo, env={"HULEEDU_JOBS": "1"}).keys() == {"alpha", "beta", "gamma"}
    assert not half.exists()
    assert ask(monorepo.url("alpha"), "SELECT 1") == [(1,)]


# Killed servers, and other processes and servers.


@pytest.mark.parametrize(
    ("command", "session"),
    [("db.up", "none"), ("db.up", "idle"), ("db.up", "busy"), ("db.reset", "idle")],
)
async def test_a_killed_server_starts_again(home: Monorepo, command: str, session: str) -> None:
    await asyncio.to_thread(ready, home)
    url = home.url("alpha")
    opened = None if session == "none" else await connect(url)
    busy = None
    if opened and session == "busy":
        # No wait in it: the backend outlives its server, and holds its shared memory.
        loop = "DO 'DECLARE n bigint := 0; BEGIN WHILE n < 12e6 LOOP n := n + 1; END LOOP; END'"
        busy = asyncio.create_task(opened.execute(loop))
        running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DO %'"
        await wait_for(lambda: fetch(url, running), [(1,)])
    psutil.Process(home.server_pid("alpha")).kill()
    ran = await asyncio.to_thread(home.invoke, command, "--service", "alpha")
    assert ran.code == 0, ran.err
    assert await fetch(url, NOTES) == SEEDED
    if opened:
        opened.terminate()
    if busy:
        await asyncio.gather(busy, return_exceptions=True)


@pytest.mark.parametrize("command", ["db.up", "db.down"])
def test_an_unrelated_process_with_the_servers_old_number_is_left_alone(
    home: Monorepo, command: str
) -> None:
    ready(home)
    data = data_of(home, "alpha")
    pid_file = (data / "postmaster.pid").read_text().splitlines()
    assert home.invoke("db.down").code == 0
    account = server_account()
    # As PostgreSQL's account, which could signal it and would take it for a server.
    unrelated = subprocess.Popen(["sleep", "60"], user=account.uid if account else None)
    try:
        (data / "postmaster.pid").write_text("\n".join([str(unrelated.pid), *pid_file[1:]]))
        assert home.invoke(command).code == 0
        assert unrelated.poll() is None
        up(home)
        assert ask(home.url("alpha"), NOTES) == SEEDED
        assert unrelated.poll() is None
    finally:
        unrelated.kill()
        unrelated.wait()


def test_a_port_in_use_is_named_and_the_other_servers_start(home: Monorepo) -> None:
    home.invoke("db.down")
    with socket.create_server(("127.0.0.1", home.port("alpha"))):
        ran = home.invoke("db.up", "--json")
    assert ran.code == 1
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK"}
    detail = ran.json["services"][0]["detail"]
    assert str(home.port("alpha")) in detail
    assert f"pid {os.getpid()} " in detail


def test_a_foreign_postgresql_on_the_port_is_not_taken_for_ours(home: Monorepo) -> None:
    home.invoke("db.down")
    with stranger(home.port("alpha")) as other:
        ran = home.invoke("db.up", "--json")
        assert (ran.code, ran.statuses) == (1, {"alpha": "FAILED", "beta": "OK"})
        assert f"pid {other.server_pid('alpha')} (postgres)" in ran.json["services"][0]["detail"]
        assert ask(other.url("alpha"), "SELECT count(*) FROM note") == [(0,)]


def test_a_foreign_postgresql_on_the_ipv6_loopback_is_not_taken_for_ours(home: Monorepo) -> None:
    if not can_listen("::1"):
        pytest.skip("this machine has no ::1")
    ready(home)
    port = home.port("alpha")
    with stranger(port=free_ports(1)[0]) as other:
        other.invoke("db.down")
        with served_at(other, "alpha", "::1", port):
            ran = home.invoke("db.reset", "--service", "alpha")
            # If `localhost` resolves to ::1 first, the other server answers, and is named.
            first = socket.getaddrinfo("localhost", port)[0][4][0]
            assert ran.code == (1 if first == "::1" else 0), ran.err
            assert changes(other.server_log("alpha")) == []
    assert ask(home.url("alpha").replace("localhost", "127.0.0.1"), NOTES) == SEEDED


@contextmanager
def stranger(port: int) -> Iterator[Monorepo]:
    """Run another server with our credentials and a database of the same name."""
    with empty_monorepo() as other:
        other.add_service("alpha", port)
        up(without_initdb(other))
        ask(other.url("alpha"), "CREATE TABLE note (id integer, text text)")
        asyncio.run(log_every_statement(other.url("alpha")))
        yield other


# Another password, user, port.


@pytest.mark.parametrize(
    ("user", "password"),
    [(USER, "another one"), ('O\'Hara "x" \\', "an'other\\")],
)
def test_a_login_changed_in_the_env_file_is_adopted_with_the_data_kept(
    home: Monorepo, user: str, password: str
) -> None:
    ready(home)
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    home.write(".env", env_file(user=user, password=quoted))
    try:
        assert up(home)["alpha"] == "running, login renewed"
        (row,) = home.invoke("db.status", "--json", "--service", "alpha").json["services"]
        assert (row["reachable"], row["pending"]) == (True, 0)
    finally:
        home.write(".env", env_file())
    up(home)
    assert ask(home.url("alpha"), NOTES) == SEEDED


def test_a_port_changed_in_the_registry_moves_the_server(home: Monorepo) -> None:
    ready(home)
    before = home.port("alpha")
    first, *others = home.services
    home.register({**first, "port": free_ports(1)[0]}, *others)
    assert up(home) == {"alpha": "started", "beta": "running"}
    assert home.port("alpha") != before
    assert not is_listening("127.0.0.1", before)
    assert ask(home.url("alpha"), NOTES) == SEEDED
    home.register({**first, "port": before}, *others)
    up(home)


# Which PostgreSQL.


@pytest.mark.parametrize(
    ("directory", "reason"),
    [("no/such/folder", "postgres was not found"), ("fake", "printed no version")],
)
def test_a_directory_without_postgresql_is_refused_without_a_fallback(
    monorepo: Monorepo, directory: str, reason: str
) -> None:
    for name in ("postgres", "initdb"):
        monorepo.write(f"fake/{name}", "#!/bin/sh\n").chmod(0o755)
    ran = monorepo.invoke("db.up", env={"HULEEDU_POSTGRES_BIN": directory})
    assert ran.code == 2
    assert reason in ran.err
    assert "HULEEDU_POSTGRES_BIN" in ran.err
    assert not monorepo.data_directories()


def test_the_servers_of_the_python_package_work_with_its_extensions() -> None:
    package = package_directory()
    assert package
    environment = {"HULEEDU_POSTGRES_BIN": str(package / "pginstall/bin")}
    with empty_monorepo() as monorepo:
        monorepo.environment |= environment
        monorepo.add_service("alpha", free_ports(1)[0], extensions=["pg_trgm"])
        for last in ("rebuilt", "last_reset copied"):
            ran = monorepo.invoke("db.reset")
            assert ran.code == 0, ran.err
            assert last in monorepo.invoke("db.status").out
        url = monorepo.url("alpha")
        assert ask(url, "SELECT similarity('word', 'words') > 0.5") == [(True,)]
        assert ask(url, "SHOW server_version_num")[0][0].startswith("18")


def test_an_extension_the_directory_lacks_is_named_before_anything_starts(
    monorepo: Monorepo,
) -> None:
    first, *others = monorepo.services
    monorepo.register({**first, "extensions": ["no_such_extension"]}, *others)
    ran = monorepo.invoke("db.reset")
    assert ran.code == 2
    assert "no_such_extension" in ran.err
    assert not monorepo.data_directories()


# The state directory.


@as_root
def test_a_state_directory_that_became_read_only_loses_nothing() -> None:
    with new_monorepo(["alpha"]) as monorepo, memory_of(monorepo, size="400m"):
        assert without_initdb(monorepo).invoke("db.reset").code == 0
        assert monorepo.invoke("db.down").code == 0
        remount(monorepo.state, "ro")
        for command in ("db.up", "db.reset"):
            ran = monorepo.invoke(command)
            assert ran.code == 1
            assert "could not be written" in ran.out + ran.err
            assert "HULEEDU_STATE_DIR" in ran.err
        remount(monorepo.state, "rw")
        assert up(monorepo) == {"alpha": "started"}
        assert ask(monorepo.url("alpha"), NOTES) == SEEDED


@as_root
def test_a_full_disk_loses_nothing() -> None:
    with new_monorepo(["alpha", "beta"]) as monorepo, memory_of(monorepo, size="400m"):
        assert without_initdb(monorepo).invoke("db.reset", "--service", "alpha").code == 0
        filler = monorepo.state / "filler"
        fill(filler)
        ran = monorepo.invoke("db.up", "--json")
        assert (ran.code, ran.statuses) == (1, {"alpha": "OK", "beta": "FAILED"})
        assert "HULEEDU_STATE_DIR" in ran.json["services"][1]["hint"]
        # Enough for a file that records the command, not for a copy of the database.
        os.truncate(filler, filler.stat().st_size - 2**21)
        for command in (["db.snapshot", "full"], ["db.rollback", "--revision", "base", "--yes"]):
            ran = monorepo.invoke(*command, "--service", "alpha", "--json")
            (row,) = ran.json["services"]
            assert (ran.code, row["code"]) == (1, "disk-full"), row
        filler.unlink()
        assert up(monorepo)["beta"] == "started"
        assert ask(monorepo.url("alpha"), NOTES) == SEEDED
        assert monorepo.invoke("db.snapshots", "--json").json["snapshots"] == []


@as_root
def test_a_disk_too_small_for_the_first_server_leaves_nothing_half_made() -> None:
    with new_monorepo(["alpha"]) as monorepo, memory_of(monorepo, size="20m"):
        ran = monorepo.invoke("db.up")
        assert ran.code == 1
        assert "What to do" in ran.err
        assert not monorepo.data_directories()


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**16)):
                pass
        except OSError:
            return


@contextmanager
def memory_of(monorepo: Monorepo, *, size: str) -> Iterator[None]:
    """Give a monorepo's state a small disk of its own."""
    monorepo.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(monorepo.state)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"this machine does not allow mounts: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        remount(monorepo.state, "rw")
        monorepo.stop_servers()
        subprocess.run(["umount", str(monorepo.state)], check=True)


def remount(path: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(path)], check=True)


def test_nothing_is_written_outside_the_state_directory(monorepo: Monorepo) -> None:
    outside = monorepo.root.with_name("outside")
    outside.mkdir(mode=0o777)
    before = listing(monorepo.root)
    environment = {"HULEEDU_STATE_DIR": "", "HOME": str(outside), "TMPDIR": str(outside)}
    monorepo.state = monorepo.root / ".huleedu"
    assert monorepo.invoke("db.reset", "--service", "alpha", env=environment).code == 0
    assert monorepo.invoke("db.down", env=environment).code == 0
    assert listing(monorepo.root) == before
    assert list(outside.iterdir()) == []
    assert monorepo.read(".huleedu/.gitignore") == "*\n"


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Return every file outside the state directory and the bytecode, with its size and time."""
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and not {".huleedu", "__pycache__"} & set(path.parts)
    }


# Accounts of processes.


@as_root
def test_started_by_root_the_servers_run_as_an_account_without_privileges(home: Monorepo) -> None:
    ready(home)
    for pid in pids(home):
        server = psutil.Process(pid)
        assert 0 not in (*server.uids(), *server.gids())
        assert Path(f"/proc/{pid}/status").read_text().count("\nGroups:\t \n") == 1
    assert data_of(home, "alpha").stat().st_mode & 0o077 == 0


@as_root
def test_an_ordinary_user_runs_the_servers_as_the_same_user() -> None:
    account = {"user": ORDINARY_ID, "group": ORDINARY_ID, "extra_groups": []}
    with new_monorepo(["alpha", "beta"]) as monorepo:
        paths = {"PYTHONPATH": reachable_library(monorepo.root.parent / "library")}
        python = reachable_python(account, paths)
        monorepo.environment |= {**paths, "HOME": str(monorepo.root)}
        for path in (monorepo.root.parent, *monorepo.root.parent.rglob("*")):
            os.chown(path, ORDINARY_ID, ORDINARY_ID)
        ran = monorepo.invoke("db.reset", account=account, python=python)
        assert ran.code == 0, ran.err
        assert ask(monorepo.url("alpha"), NOTES) == SEEDED
        assert {psutil.Process(pid).uids().real for pid in pids(monorepo)} == {ORDINARY_ID}
        owners = {path.lstat().st_uid for path in monorepo.state.rglob("*")}
        assert owners == {ORDINARY_ID}
        assert monorepo.invoke("db.down", account=account, python=python).code == 0


def reachable_library(directory: Path) -> str:
    """Return where another user can import the tasks and all they need; copies, if he must."""
    packages = Path(sysconfig.get_path("purelib"))
    if is_reachable(PROJECT) and is_reachable(packages):
        return os.pathsep.join([str(PROJECT), *filter(None, sys.path)])
    shutil.copytree(packages, directory / "packages", symlinks=True)
    shutil.copytree(PROJECT / "huleedu_tasks", directory / "project/huleedu_tasks")
    return os.pathsep.join([str(directory / "project"), str(directory / "packages")])


def reachable_python(account: Mapping[str, Any], paths: Mapping[str, str]) -> str:
    """Return an interpreter like ours that another user can run; skip if there is none."""
    usual = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    for python in filter(None, (sys.executable, usual)):
        try:
            subprocess.run(
                [python, "-c", "import asyncpg, invoke, huleedu_tasks"],
                env={**clean_environment(), **paths},
                check=True,
                capture_output=True,
                **account,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return str(python)
    pytest.skip(f"user {ORDINARY_ID} can run no interpreter with the libraries of the tasks")


# Several at once.


def test_two_services_share_one_server() -> None:
    (port,) = free_ports(1)
    with empty_monorepo() as monorepo:
        for name in ("alpha", "beta"):
            monorepo.add_service(name, port, compose_service="alpha_db")
        assert without_initdb(monorepo).invoke("db.reset").code == 0
        assert len(monorepo.data_directories()) == 2
        ask(monorepo.url("beta"), "INSERT INTO note VALUES (3, 'third')")
        assert monorepo.invoke("db.reset", "--service", "alpha").code == 0
        assert ask(monorepo.url("alpha"), NOTES) == SEEDED
        assert ask(monorepo.url("beta"), NOTES) == [*SEEDED, ("third",)]


def test_two_resets_at_once_both_succeed(home: Monorepo) -> None:
    both = [home.start("db.reset", "--json") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert {row["status"] for row in json.loads(out)["services"]} == {"OK"}
    assert ask(home.url("beta"), NOTES) == SEEDED


def test_two_first_ups_at_once_both_succeed(monorepo: Monorepo) -> None:
    both = [monorepo.start("db.up") for _ in range(2)]
    assert [process.communicate(timeout=60) and process.returncode for process in both] == [0, 0]
    services = load_registry(monorepo.path("services.json")).services
    wait_until(lambda: all(is_listening("127.0.0.1", service.port) for service in services))


# Damaged pid files.


DAMAGE = {
    "empty": b"",
    "NULs": b"\0" * 64,
    "no text": b"\xff\xfe\x80\n" * 8,
    "another text": b"hello\n",
    "a huge number": b"9" * 40 + b"\n/data\n",
    "a number and no text": b"1\n\xff\xfe\0\0\n",
    "no server's number": b"0\n",
}


@pytest.mark.parametrize(
    "kinds",
    [
        ("empty", "NULs"),
        ("no text", "another text"),
        ("a huge number", "a number and no text"),
        ("no server's number", "no server's number"),
    ],
)
def test_a_damaged_pid_file_is_repaired(home: Monorepo, kinds: Sequence[str]) -> None:
    ready(home)
    for name, kind in zip(BOTH, kinds, strict=True):
        psutil.Process(home.server_pid(name)).kill()
        (data_of(home, name) / "postmaster.pid").write_bytes(DAMAGE[kind])
    assert up(home) == dict.fromkeys(BOTH, "started")
    for name in BOTH:
        assert ask(home.url(name), NOTES) == SEEDED


def test_a_server_that_runs_with_a_damaged_pid_file_is_found(home: Monorepo) -> None:
    ready(home)
    server = psutil.Process(home.server_pid("alpha"))
    (data_of(home, "alpha") / "postmaster.pid").write_bytes(b"")
    assert up(home)["alpha"] == "started"
    wait_until(lambda: is_dead(server))
    assert ask(home.url("alpha"), NOTES) == SEEDED


def test_the_pid_file_of_another_server_is_repaired_and_that_server_keeps_running(
    home: Monorepo,
) -> None:
    ready(home)
    other = psutil.Process(home.server_pid("beta"))
    psutil.Process(home.server_pid("alpha")).kill()
    content = (data_of(home, "beta") / "postmaster.pid").read_bytes()
    (data_of(home, "alpha") / "postmaster.pid").write_bytes(content)
    assert up(home) == {"alpha": "started", "beta": "running"}
    assert other.is_running()
    assert ask(home.url("alpha"), NOTES) == SEEDED


@pytest.mark.parametrize("kinds", [("link", "directory"), ("hard link", "pipe")])
def test_nothing_is_written_through_a_link_in_place_of_the_pid_file(
    home: Monorepo, kinds: Sequence[str]
) -> None:
    ready(home)
    assert home.invoke("db.down").code == 0
    precious = home.state / "precious"
    precious.write_text("1\nprecious\n")
    for name, kind in zip(BOTH, kinds, strict=True):
        pid_file = data_of(home, name) / "postmaster.pid"
        if kind == "link":
            pid_file.symlink_to(precious)
        elif kind == "hard link":
            pid_file.hardlink_to(precious)
        elif kind == "directory":
            pid_file.mkdir()
        else:
            os.mkfifo(pid_file)
    assert up(home) == dict.fromkeys(BOTH, "started")
    assert precious.read_text() == "1\nprecious\n"


def test_a_log_is_its_owners_alone_and_is_not_written_through_a_link(home: Monorepo) -> None:
    ready(home)
    log = data_of(home, "alpha").with_name("server.log")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.state.stat().st_mode) & 0o066 == 0
    assert home.invoke("db.down").code == 0
    kept, precious = log.with_name("kept"), home.state / "precious"
    precious.write_text("")
    log.rename(kept)
    log.symlink_to(precious)
    try:
        assert home.invoke("db.up", "--service", "alpha").code == 1
        assert precious.read_text() == ""
    finally:
        kept.replace(log)
