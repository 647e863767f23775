"""The rights for the pending revisions are checked with the role and schemas of `env.py`."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.production.test_plan import pending
from tests.support.monorepo import ENV_PY, USER, Ran
from tests.support.postgres import ask
from tests.support.production import Production, problems
from tests.support.rehearsal import Rehearsal

OWNER = "owner_of_all"
ENV = "services/alpha_service/alembic/env.py"
CODE = "missing-rights"
CLOSED = (f"REVOKE CREATE ON SCHEMA public FROM {USER}",)
OPENED = (f"GRANT CREATE ON SCHEMA public TO {USER}",)
SCHEMA = f"CREATE SCHEMA own AUTHORIZATION {USER}"
# All that is alpha's belongs to a role that the login may become, and is not by itself.
HANDED_OVER = (
    f"CREATE ROLE {OWNER}",
    f"GRANT {OWNER} TO {USER}",
    f"ALTER ROLE {USER} NOINHERIT",
    f"ALTER TABLE note OWNER TO {OWNER}",
    f"ALTER TABLE alembic_version OWNER TO {OWNER}",
    f"GRANT CREATE, USAGE ON SCHEMA public TO {OWNER}",
    *CLOSED,
)
TAKEN_BACK = (
    f"ALTER ROLE {USER} INHERIT",
    f"ALTER ROLE {USER} RESET role",
    f"REASSIGN OWNED BY {OWNER} TO {USER}",
    f"DROP OWNED BY {OWNER}",
    f"DROP ROLE {OWNER}",
    *OPENED,
)
SETS_ROLE = f'connection.exec_driver_sql("SET ROLE {OWNER}")'
SETS_PATH = 'connection.exec_driver_sql("SET search_path TO own, public")'


@contextmanager
def changed(
    production: Production, do: tuple[str, ...], undo: tuple[str, ...], env: str = ""
) -> Iterator[None]:
    """Have the administrator change alpha's database, and env.py do something, for a block."""
    ask(production.admin(), *do)
    begin = "    with context.begin_transaction():\n"
    production.monorepo.write(ENV, ENV_PY.replace(begin, f"{begin}        {env or 'pass'}\n"))
    try:
        yield
    finally:
        production.monorepo.write(ENV, ENV_PY)
        ask(production.admin(), *undo)


def missing(ran: Ran) -> list[tuple[str, str]]:
    """Return the rights that alpha's role was said not to have, with their levels."""
    return [
        (found["level"], found["cause"])
        for found in problems(ran)
        if found.get("code") == CODE or "own " in found["cause"] or "create" in found["cause"]
    ]


def test_a_schema_of_its_own_needs_no_rights_in_public(production: Production) -> None:
    undo = ("DROP SCHEMA own CASCADE", *OPENED)
    with (
        changed(production, (SCHEMA, *CLOSED), undo),
        pending(production, b2="CREATE TABLE own.a ()"),
    ):
        ran = production.validate("alpha")
    assert (ran.code, missing(ran)) == (0, []), ran.out


def test_a_created_table_requires_rights_in_its_own_schema(production: Production) -> None:
    undo = ("DROP SCHEMA own CASCADE", *OPENED)
    sql = "CREATE TABLE own.a ()", "CREATE TABLE b ()", "CREATE SCHEMA other"
    body = "\n".join(f"op.execute({statement!r})" for statement in sql)
    with changed(production, (SCHEMA, *CLOSED), undo), pending(production, b2=body):
        ran = production.validate("alpha")
        planned = production.invoke("prod.plan", "--json", "--service", "alpha")
    expected = [
        ("ERROR", f"'{USER}' may not create in the schema \"public\", which revision b2 requires"),
        ("ERROR", f"'{USER}' may not create schemas, which revision b2 requires"),
    ]
    assert (ran.code, missing(ran)) == (1, expected)
    assert (planned.code, missing(planned)) == (1, expected)


def test_only_the_tables_that_a_revision_alters_must_be_owned(production: Production) -> None:
    do = ("CREATE TABLE foreigners ()", "CREATE TABLE touched ()")
    undo = ("DROP TABLE foreigners, touched",)
    body = "op.execute('ALTER TABLE touched ADD COLUMN i int')\nop.execute('SELECT 1')"
    with changed(production, do, undo):
        with pending(production, b2="ALTER TABLE note ADD COLUMN i int"):
            harmless = production.validate("alpha")
        with pending(production, b2=body):
            ran = production.validate("alpha")
    assert (harmless.code, missing(harmless)) == (0, [])
    assert (ran.code, missing(ran)) == (
        1,
        [("ERROR", f"'{USER}' does not own public.touched, which revision b2 alters")],
    )


def test_the_search_path_is_that_of_env_py(production: Production) -> None:
    undo = ("DROP SCHEMA own CASCADE", *OPENED)
    own_path = changed(production, (SCHEMA, *CLOSED), undo, SETS_PATH)
    with own_path, pending(production, b2="CREATE TABLE a ()"):
        ran = production.validate("alpha")
    assert (ran.code, missing(ran)) == (0, []), ran.out


@pytest.mark.parametrize("revises", [False, True])
def test_the_role_is_that_of_env_py(production: Production, revises: bool) -> None:
    """With and without a pending revision."""
    revisions = {"b2": "ALTER TABLE note ADD COLUMN i int"} if revises else {}
    with changed(production, HANDED_OVER, TAKEN_BACK):
        alone = production.validate("alpha")
    with changed(production, HANDED_OVER, TAKEN_BACK, SETS_ROLE), pending(production, **revisions):
        ran = production.validate("alpha")
    assert alone.code == 1
    assert (ran.code, missing(ran)) == (0, []), ran.out


def test_a_role_that_is_set_for_the_login_is_checked(production: Production) -> None:
    do = (*HANDED_OVER, f"ALTER ROLE {USER} SET role = '{OWNER}'")
    with changed(production, do, TAKEN_BACK), pending(production, b2="CREATE TABLE a ()"):
        ran = production.validate("alpha")
    assert (ran.code, missing(ran)) == (0, []), ran.out


def test_a_role_with_fewer_rights_that_env_py_sets_is_checked(production: Production) -> None:
    do = (
        f"CREATE ROLE {OWNER}",
        f"GRANT {OWNER} TO {USER}",
        f"GRANT SELECT, INSERT, UPDATE ON alembic_version TO {OWNER}",
    )
    undo = (f"DROP OWNED BY {OWNER}", f"DROP ROLE {OWNER}")
    with changed(production, do, undo, SETS_ROLE), pending(production, b2="CREATE TABLE a ()"):
        ran = production.validate("alpha")
    cause = f"'{OWNER}' may not create in the schema \"public\", which revision b2 requires"
    assert (ran.code, missing(ran)) == (1, [("ERROR", cause)])


def test_a_version_table_that_may_only_be_read_is_an_error(production: Production) -> None:
    do = (
        "ALTER TABLE alembic_version OWNER TO postgres_admin",
        f"GRANT SELECT ON alembic_version TO {USER}",
    )
    undo = (f"ALTER TABLE alembic_version OWNER TO {USER}",)
    with changed(production, do, undo), pending(production, b2="CREATE TABLE a ()"):
        ran = production.validate("alpha")
    cause = f"'{USER}' may not record revisions in public.alembic_version"
    assert ran.code == 1
    assert ("ERROR", cause) in [(problem["level"], problem["cause"]) for problem in problems(ran)]


def test_a_right_that_cannot_be_verified_is_a_warning(production: Production) -> None:
    body = f"op.execute('SET ROLE {USER}')\nop.execute('CREATE TABLE a ()')"
    with changed(production, CLOSED, OPENED), pending(production, b2=body):
        ran = production.validate("alpha")
    assert ran.code == 0
    assert [level for level, _ in missing(ran)] == ["WARNING"]


def test_a_role_that_env_py_sets_migrates(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", sql="ALTER TABLE note ADD COLUMN i int")
    with changed(rehearsal.production, HANDED_OVER, TAKEN_BACK, SETS_ROLE):
        ran = rehearsal.migrate("--service", "alpha")
        assert ran.code == 0, ran.err
        assert rehearsal.at("alpha") == "b2"
