"""Several new volumes are filled from one `initdb`, with the result that the image itself has."""

import re
import signal
from collections.abc import Iterator

import pytest

from huleedu_tasks.compose.engine import HELPER_LABEL
from huleedu_tasks.compose.fresh_volumes import UNFINISHED
from tests.support.docker import (
    DATA,
    IMAGE,
    SCRIPTS,
    Docked,
    engine,
    inside,
    new_docked,
)
from tests.support.monorepo import USER, wait_until
from tests.support.postgres import ask

NAMES = ("alpha", "beta")
INITDB = b"The files belonging to this database system"
# `pg_dump` writes a random word; the verifier of a password has a random salt.
RANDOM = re.compile(r"^\\(un)?restrict .*$|SCRAM-SHA-256\$[^']*", re.MULTILINE)
FILES = (
    f"find {DATA} -not -path '*/base/*' -not -path '*/pg_wal/*' -not -path '*/global/*' "
    r"-not -name postmaster.pid -not -path '*/pg_stat*/*' -printf '%P %m %u:%g\n' | sort"
)
CONFIGURATION = f"cat {DATA}/pg_hba.conf {DATA}/pg_ident.conf {DATA}/postgresql*.conf"
HALF_FILLED = f"mkdir -p /volume/{UNFINISHED}/data && touch /volume/pg_hba.conf"


@pytest.fixture(scope="module")
def docked() -> Iterator[Docked]:
    with new_docked(*NAMES) as made:
        yield made


@pytest.fixture(autouse=True)
def no_volumes(docked: Docked) -> Iterator[None]:
    """Begin without containers and volumes; leave no helper container."""
    docked.compose("down", "--volumes", "--timeout", "5")
    yield
    assert helpers(docked) == 0


def helpers(docked: Docked) -> int:
    """Return the number of the project's helper containers."""
    label = {"label": f"{HELPER_LABEL}={docked.project}"}
    return len(engine().containers.list(all=True, filters=label, ignore_removed=True))


def up(docked: Docked) -> None:
    ran = docked.invoke("db.up")
    assert ran.code == 0, ran.out + ran.err


def state(docked: Docked, name: str) -> list[str]:
    """Return the dump of a whole server, and owners, modes and configuration of its files."""
    container = docked.container(f"{name}_db")
    dump = RANDOM.sub("", inside(container, "pg_dumpall", "-U", USER))
    return [
        dump,
        inside(container, "sh", "-c", FILES),
        inside(container, "sh", "-c", CONFIGURATION),
    ]


def assert_filled(docked: Docked) -> None:
    """Assert that no image ran `initdb`, and that the servers have identifiers of their own."""
    containers = [docked.container(f"{name}_db") for name in NAMES]
    assert not any(INITDB in container.logs() for container in containers)
    read = "pg_controldata | grep identifier"
    assert len({inside(container, "sh", "-c", read) for container in containers}) == len(NAMES)


def test_a_filled_volume_is_what_the_image_itself_makes(docked: Docked) -> None:
    up(docked)
    assert_filled(docked)
    filled = {name: state(docked, name) for name in NAMES}
    docked.compose("down", "--volumes", "--timeout", "5")
    docked.up()
    up(docked)
    assert {name: state(docked, name) for name in NAMES} == filled


def test_volumes_that_are_half_filled_are_filled_again(docked: Docked) -> None:
    docked.compose("up", "--no-start")
    mounts = {f"{docked.project}_alpha_db_data": {"bind": "/volume"}}
    command = ["sh", "-c", HALF_FILLED]
    engine().containers.run(IMAGE, entrypoint=command, volumes=mounts, remove=True)
    up(docked)
    assert_filled(docked)


def test_a_command_that_was_killed_while_it_fills_volumes_is_repaired_by_the_next(
    docked: Docked,
) -> None:
    tool = docked.start("db.up")
    wait_until(lambda: helpers(docked) > 0)
    tool.send_signal(signal.SIGKILL)
    tool.communicate()
    up(docked)
    assert_filled(docked)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"]
)
def test_a_command_that_was_interrupted_while_it_fills_volumes_leaves_no_helper_container(
    docked: Docked, number: signal.Signals, code: int
) -> None:
    tool = docked.start("db.up")
    wait_until(lambda: helpers(docked) > 0)
    tool.send_signal(number)
    tool.communicate()
    assert tool.returncode == code
    assert helpers(docked) == 0
    up(docked)
    assert_filled(docked)


def test_a_volume_with_other_files_is_left_as_it_is(docked: Docked) -> None:
    docked.compose("up", "--no-start")
    mounts = {f"{docked.project}_alpha_db_data": {"bind": "/volume"}}
    command = ["sh", "-c", "touch /volume/notes.txt"]
    engine().containers.run(IMAGE, entrypoint=command, volumes=mounts, remove=True)
    ran = docked.invoke("db.up", "--json")
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK"}
    (volume,) = (name for name in docked.volumes() if "alpha" in name)
    listed = engine().containers.run(
        IMAGE, entrypoint=["ls", "/volume"], volumes={volume: {"bind": "/volume"}}, remove=True
    )
    assert listed.split() == [b"notes.txt"]


def test_a_server_with_init_scripts_starts_before_the_volumes_of_the_others_are_filled(
    docked: Docked,
) -> None:
    docked.write("init.sql", "CREATE TABLE from_script ()")
    docked.add_database("gamma", mounts=[f"./init.sql:{SCRIPTS}/init.sql:ro"])
    ran = docked.invoke("db.reset")
    assert ran.code == 0, ran.out + ran.err
    assert_filled(docked)
    gamma = docked.container("gamma_db")
    assert INITDB in gamma.logs()
    assert all(
        gamma.attrs["State"]["StartedAt"]
        < docked.container(f"{name}_db").attrs["State"]["StartedAt"]
        for name in NAMES
    )
    # It was found freshly initialised: the copy of what the script made exists.
    copies = "SELECT datname FROM pg_database WHERE datname LIKE '%\\_\\_pristine'"
    found = ask(docked.url("gamma", database="postgres"), copies)
    assert found == [("huleedu_gamma__pristine",)]
