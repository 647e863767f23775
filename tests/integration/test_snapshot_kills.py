"""Snapshots, restores, undos and rollbacks that are killed: nothing is lost; the next one heals."""

from collections.abc import Iterator

import pytest

from tests.support.db_runs import without_initdb
from tests.support.dying import DYING_TASKS
from tests.support.instant import maintain
from tests.support.monorepo import Monorepo, Ran, new_monorepo
from tests.support.observe import notes
from tests.support.postgres import ask

NAMES = ("one", "two")
SAVED, LATER = "first second saved", "first second saved later"
# More statements than any of the commands runs.
MOST = 40


@pytest.fixture(scope="module")
def servers() -> Iterator[Monorepo]:
    with new_monorepo(NAMES) as made:
        without_initdb(made)
        made.write("tasks.py", DYING_TASKS)
        first = made.path(f"services/{NAMES[0]}_service/alembic/versions/a1.py")
        first.write_text(first.read_text().replace("    pass", "    op.drop_table('note')"))
        assert made.invoke("db.reset").code == 0
        yield made


@pytest.fixture
def pair(servers: Monorepo) -> Iterator[Monorepo]:
    """Two services with a row that is saved, and nothing else on their servers."""
    assert servers.invoke("db.reset", "--no-undo").code == 0
    add(servers, 8, "saved")
    yield servers
    servers.invoke("db.snapshots", "--delete", "base")
    for name in NAMES:
        maintain(servers, name, f"DROP DATABASE IF EXISTS huleedu_{name}__undo")


@pytest.fixture
def step(request: pytest.FixtureRequest) -> int:
    """Kill after every fifth statement, or after every one with `--every-combination`."""
    return 1 if request.config.getoption("--every-combination") else 5


def add(monorepo: Monorepo, number: int, text: str) -> None:
    for name in NAMES:
        ask(monorepo.url(name), f"INSERT INTO note VALUES ({number}, '{text}')")


def texts(monorepo: Monorepo) -> set[str]:
    return {notes(monorepo, name) for name in NAMES}


def leftovers(monorepo: Monorepo) -> set[str]:
    """Return the endings of databases that only a killed command leaves."""
    sql = "SELECT datname FROM pg_database WHERE datname LIKE ANY (ARRAY['%!_!_new', '%!_!_old'])"
    found = {row[0] for name in NAMES for row in maintain(monorepo, name, sql.replace("!", "\\"))}
    return {name[-5:] for name in found}


def succeeds(monorepo: Monorepo, *arguments: str) -> None:
    ran = monorepo.invoke(*arguments)
    assert ran.code == 0, ran.out + ran.err


def dies(monorepo: Monorepo, number: int, *arguments: str) -> bool:
    """Run a command that kills itself; return False if it ended before."""
    ran: Ran = monorepo.invoke(*arguments, env={"DIES_AFTER": str(number)})
    assert ran.code in (0, -9), ran.out + ran.err
    return ran.code != 0


def test_a_killed_snapshot_exists_for_all_services_or_none(pair: Monorepo, step: int) -> None:
    for number in range(1, MOST, step):
        died = dies(pair, number, "db.snapshot", "base")
        assert texts(pair) == {SAVED}
        listed = pair.invoke("db.snapshots", "--json").json["snapshots"]
        assert len(listed) in (0, len(NAMES))
        if not listed:
            succeeds(pair, "db.snapshot", "base")
        add(pair, 9, "later")
        succeeds(pair, "db.restore", "base", "--no-undo")
        assert texts(pair) == {SAVED}
        succeeds(pair, "db.snapshots", "--delete", "base")
        if not died:
            break
    assert 2 < number < MOST - 1


def test_after_a_killed_restore_the_next_one_and_an_undo_have_all_data(
    pair: Monorepo, step: int
) -> None:
    succeeds(pair, "db.snapshot", "base")
    for number in range(1, MOST, step):
        add(pair, 9, "later")
        died = dies(pair, number, "db.restore", "base")
        succeeds(pair, "db.restore", "base")
        assert texts(pair) == {SAVED}
        assert leftovers(pair) == set()
        succeeds(pair, "db.undo", "--service", ",".join(NAMES))
        assert texts(pair) == {LATER}
        succeeds(pair, "db.restore", "base", "--no-undo")
        if not died:
            break
    assert 4 < number < MOST - 1


def test_the_undo_after_a_killed_one_completes_it(pair: Monorepo, step: int) -> None:
    for number in range(1, MOST, step):
        succeeds(pair, "db.reset")
        died = dies(pair, number, "db.undo")
        if died:
            succeeds(pair, "db.undo")
        assert texts(pair) == {SAVED}
        assert leftovers(pair) == set()
        if not died:
            break
    assert 2 < number < MOST - 1


def test_an_undo_after_a_killed_reset_has_all_data(pair: Monorepo, step: int) -> None:
    for number in range(1, MOST, step):
        died = dies(pair, number, "db.reset")
        succeeds(pair, "db.reset")
        assert leftovers(pair) == set()
        succeeds(pair, "db.undo", "--service", ",".join(NAMES))
        assert texts(pair) == {SAVED}
        if not died:
            break
    assert 4 < number < MOST - 1


def test_an_undo_after_a_killed_rollback_has_all_data(pair: Monorepo, step: int) -> None:
    rollback = ("db.rollback", "--service", NAMES[0], "--revision", "base", "--yes")
    for number in range(1, MOST, step):
        died = dies(pair, number, *rollback)
        if ask(pair.url(NAMES[0]), "SELECT version_num FROM alembic_version"):
            assert texts(pair) == {SAVED}
            succeeds(pair, *rollback)
        succeeds(pair, "db.undo")
        assert texts(pair) == {SAVED}
        assert leftovers(pair) == set()
        if not died:
            break
    assert 4 < number < MOST - 1
