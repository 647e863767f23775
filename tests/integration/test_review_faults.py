"""The commands of `migrations` with faulty services, and with a server that dies meanwhile."""

from collections.abc import Iterator

import pytest

from tests.integration.test_reviews import NOTE, Services, codes, problems
from tests.support.alembic_bench import Bench, sql
from tests.support.monorepo import Ran, empty_monorepo, free_ports
from tests.support.postgres import SHUT_DOWN

NAMES = ("odd", "bare", "absent", "middle", "late", "dies")
ODD = (
    'CREATE SCHEMA "a;b"',
    "CREATE TYPE \"a;b\".\"x'y\" AS ENUM ('o''n', 'off;')",
    'CREATE TABLE "a;b"."new\nline" ("c ""d" "a;b"."x\'y", "ü.x" integer DEFAULT 1)',
    'CREATE TABLE "[red]log" (id integer, at date NOT NULL) PARTITION BY RANGE (at)',
    'CREATE TABLE "<b>log" PARTITION OF "[red]log" DEFAULT',
    'CREATE INDEX "i;1" ON "[red]log" (id)',
    'COMMENT ON TABLE "a;b"."new\nline" IS \'<script>x</script> [bold]\'',
)
CHANGED = (
    'ALTER TABLE "[red]log" ALTER id TYPE bigint',
    'ALTER TABLE "a;b"."new\nline" DROP COLUMN "c ""d"',
)
LATE = (
    "CREATE TABLE q (i integer PRIMARY KEY)",
    "CREATE TABLE r (i integer REFERENCES q DEFERRABLE INITIALLY DEFERRED)",
    "INSERT INTO r VALUES (1)",
)


def body(*statements: str) -> str:
    """Return the body of a function that runs statements."""
    return sql(*statements).replace("\n", "\n    ")


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    """Make services with one fault each; one has a server of its own, which it shuts down."""
    with empty_monorepo() as monorepo:
        made = Services(monorepo)
        for name in NAMES[:-1]:
            made.add(name, models="")
            monorepo.path(f"database/seed-scripts/seed_{name}.py").unlink()
        undo = body('DROP TABLE "[red]log"', 'DROP SCHEMA "a;b" CASCADE')
        made.revise("odd", "b1", "a1", body(*ODD), undo)
        monorepo.path("services/bare_service/alembic/versions/a1.py").unlink()
        monorepo.path("services/absent_service/alembic.ini").unlink()
        made.revise("middle", "b1", "a1", body("CREATE TABLE b ()", "SELECT 1/0"))
        made.revise("middle", "c1", "b1", body("CREATE TABLE c ()"))
        made.revise("late", "b1", "a1", body(*LATE), body("DROP TABLE r, q"))
        monorepo.add_service("dies", *free_ports(1))
        made.revise("dies", "a1", None, body(NOTE), body("DROP TABLE note"))
        made.revise("dies", "b1", "a1", body(SHUT_DOWN))
        made.git("init", "--initial-branch=main")
        made.git("add", "--all")
        made.git("commit", "--message=first")
        made.revise("odd", "c1", "b1", body(*CHANGED), "raise NotImplementedError")
        yield made


def run(services: Services, command: str, *arguments: str) -> Ran:
    """Run a command, and assert that it reports every service and has no bug."""
    ran = services.monorepo.invoke(command, "--json", *arguments)
    assert "Traceback" not in ran.err
    assert {one["service"] for one in ran.json["services"]} == {*NAMES}
    return ran


def test_a_check_names_the_fault_of_each(services: Services) -> None:
    ran = run(services, "migrations.check")
    found = {name: codes(ran, name) for name in NAMES}
    assert found == {
        "odd": ["metadata-missing"],
        "bare": [],
        "absent": ["script-location-missing"],
        "middle": ["history-not-built"],
        "late": ["history-not-built"],
        "dies": ["history-not-built"],
    }
    (late,) = problems(ran, "late")
    assert 'insert or update on table "r" violates foreign key constraint' in late["cause"]
    (absent,) = problems(ran, "absent")
    assert "services/absent_service/alembic.ini does not exist" in absent["cause"]


def test_a_rehearsal_ends_for_each(services: Services) -> None:
    ran = run(services, "migrations.test")
    states = {one["service"]: one.get("state", one["status"]) for one in ran.json["services"]}
    # No database of a server that has died can be examined.
    assert states.pop("dies") == states.pop("absent") == "FAILED"
    assert states.pop("bare") == "OK"
    assert {name: codes(ran, name) for name in states} == {
        "odd": ["downgrade-missing"],
        "middle": ["downgrade-missing", "downgrade-missing", "upgrade-failed"],
        "late": ["upgrade-failed"],
    }
    (late,) = problems(ran, "late")
    assert "late_service/alembic/versions/b1.py: the upgrade of b1 failed" in late["cause"]


def test_a_lint_names_hostile_objects_and_what_ended_a_server(services: Services) -> None:
    ran = run(services, "migrations.lint", "--base=main")
    found = {one["cause"]: one["code"] for one in problems(ran, "odd") if one["level"] == "ERROR"}
    where = "(of unknown size)"
    assert found == {
        f"rewrites '<b>log' {where} under ACCESS EXCLUSIVE, which blocks reads and writes "
        "meanwhile": "rewrites-table",
        f"drops the column 'c \"d' of 'a;b.new\\nline' {where}": "drops-column",
    }
    whole = run(services, "migrations.lint")
    assert "upgrade-failed" in codes(whole, "dies")


async def test_a_role_without_rights_is_told_which_it_lacks(bench: Bench) -> None:
    case = await bench.case(a1=sql("CREATE TABLE note (id integer)"))
    await case.ask("CREATE ROLE limited LOGIN PASSWORD 'x'")
    url = f"postgresql+asyncpg://limited:x@{case.url.address}/{case.url.database}"
    variables = {
        case.service.url_variable: url,
        "HULEEDU_PROVIDER": "existing",
        "HULEEDU_DB_USER": "limited",
        "HULEEDU_DB_PASSWORD": "x",
    }
    named = ("--json", "--service", case.service.name)
    for command in ("migrations.check", "migrations.test"):
        ran = bench.monorepo.invoke(command, *named, env=variables)
        (service,) = ran.json["services"]
        assert service["status"] == "FAILED", service
