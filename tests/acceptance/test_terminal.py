"""The screen of a command at a terminal."""

import re
from collections.abc import Iterator

import pytest

from tests.support.db_runs import without_initdb
from tests.support.fork_server import fresh_interpreters
from tests.support.monorepo import LIMIT, Monorepo, new_monorepo, wait_until
from tests.support.observe import statements
from tests.support.terminal import CONTROL, seen, typed

SERVICES = ("alpha", "beta")
SLEEP = "SELECT pg_sleep(600)"
COLOR = re.compile(r"\x1b\[(?:\d+;)*(?:3|9)\d(?:;\d+)*m")


@pytest.fixture(scope="module")
def terminal() -> Iterator[Monorepo]:
    with new_monorepo(SERVICES) as made:
        yield without_initdb(made)


def test_a_reset_shows_a_line_for_each_service_with_its_step_and_ends_with_the_table(
    terminal: Monorepo,
) -> None:
    with fresh_interpreters():
        ran = seen(typed(terminal, "db.reset"))
    assert ran.code == 0
    shown = CONTROL.sub("", ran.err)
    assert re.search(r"\d of 2 running, [\d.]+ s, migrating", shown)
    for name in SERVICES:
        assert re.search(rf"\.\.\. +{name} +[\d.]+ s +migrating", shown)
        assert re.search(
            rf"^{name} +OK +no revision +a1 +[\d.]+ s +migrated, seeded", ran.out, re.M
        )
    assert "migrating" not in ran.out
    assert ran.out.strip().splitlines()[-1].startswith("db.reset: 2 OK in ")
    assert COLOR.search(ran.err)


def test_a_failed_service_has_its_output_below_the_table(terminal: Monorepo) -> None:
    path = "database/seed-scripts/seed_beta.py"
    seed = terminal.read(path)
    terminal.write(path, "async def seed(connection):\n    raise RuntimeError('[no] pencils')\n")
    ran = seen(typed(terminal, "db.reset"))
    terminal.write(path, seed)
    assert ran.code == 1
    table, _, output = ran.out.partition("--- beta: its own output")
    assert re.search(r"^alpha +OK .*\nbeta +FAILED ", table, re.M)
    assert "RuntimeError: [no] pencils" in output
    assert "What to do: Correct the seed, then run `invoke db.seed`." in output


def test_a_reset_outlasts_the_readers_of_its_output(terminal: Monorepo) -> None:
    process = terminal.start("db.reset", "--fresh")
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
    assert process.wait(LIMIT) == 0
    assert terminal.invoke("db.status", "--check").code == 0


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_color_can_be_switched_off(terminal: Monorepo, variables: dict[str, str]) -> None:
    ran = seen(typed(terminal, "db.status", variables=variables))
    assert "alpha" in ran.out
    assert not COLOR.search(ran.err)


def test_a_narrow_terminal_shows_every_service_with_its_status(terminal: Monorepo) -> None:
    ran = seen(typed(terminal, "db.reset", columns=60))
    assert ran.code == 0
    for name in SERVICES:
        assert re.search(rf"^{name} +OK\b", ran.out, re.M)


def test_ctrl_c_at_the_terminal_ends_the_run_and_leaves_the_servers(terminal: Monorepo) -> None:
    revision = terminal.add_revision("beta", "b2", "a1", SLEEP)
    server = terminal.server_pid("beta")
    child = typed(terminal, "db.reset")
    wait_until(lambda: statements(terminal, "beta", SLEEP) > 0)
    child.sendintr()
    ran = seen(child)
    revision.unlink()
    assert ran.code == 130
    assert re.search(r"^beta +ABORTED .*interrupted", ran.out, re.M)
    assert terminal.server_pid("beta") == server


def test_the_list_of_tasks_has_one_line_for_each(terminal: Monorepo) -> None:
    ran = seen(typed(terminal, "--list", columns=80))
    head, *tasks = [line for line in ran.out.splitlines() if line]
    assert head == "Available tasks:"
    assert len(tasks) > 8
    for task in tasks:
        assert re.fullmatch(r"  (db|env|migrations|prod|services)\.[a-z-]+ +[A-Z].{,59}\.", task)


def test_the_help_of_a_task_explains_every_flag(terminal: Monorepo) -> None:
    ran = seen(typed(terminal, "--help", "db.reset", columns=80))
    _, _, options = ran.out.partition("Options:\n")
    flags = {
        match[1]: match[2] for match in re.finditer(r"^  (--[a-z-]+)\S* *(.*)$", options, re.M)
    }
    assert {"--confirm", "--dry-run", "--jobs", "--json", "--service"} <= set(flags)
    assert all(flags.values())
    # A short flag of ours would shadow one of Invoke's.
    assert not re.search(r"^  -[a-z]\b", options, re.M)
