"""`prod.validate` against real servers: no finding without faults, and each fault alone."""

import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from huleedu_tasks.config.secret import Secret
from tests.support.monorepo import PASSWORD, USER, Ran, free_ports
from tests.support.observe import assert_no_password, watched_command_lines
from tests.support.postgres import ask, connect, wait_for
from tests.support.production import (
    MODES,
    Authority,
    Production,
    admin_url,
    bouncer,
    external,
    problems,
)

Variables = Callable[[Production], Mapping[str, str]]
DIRECT = "ALPHA_SERVICE_DIRECT_DATABASE_URL"
OVERRIDE = "ALPHA_SERVICE_DATABASE_URL"
PORT = "HULEEDU_PROD_DB_PORT"
HOST = "HULEEDU_PROD_DB_HOST"
MODE = "HULEEDU_PROD_DB_SSLMODE"
ROOT = "HULEEDU_PROD_DB_SSLROOTCERT"
EXTENSION = "pg_trgm"
AGE = (
    "SELECT min(clock_timestamp() - xact_start) > interval '5 s'"
    " FROM pg_stat_activity WHERE pid = ANY($1)"
)


@dataclass(frozen=True)
class Fault:
    """An expected problem: its level, and parts of its cause and remedy."""

    level: str
    cause: str
    remedy: str


def error(cause: str, remedy: str) -> Fault:
    return Fault("ERROR", cause, remedy)


def warning(cause: str, remedy: str) -> Fault:
    return Fault("WARNING", cause, remedy)


def assert_found(ran: Ran, *faults: Fault, service: str = "alpha") -> None:
    """Assert that a service has exactly these problems, and that the exit code matches."""
    found = problems(ran, service)
    assert [problem["level"] for problem in found] == [fault.level for fault in faults], found
    for problem, fault in zip(found, faults, strict=True):
        assert fault.cause in problem["cause"]
        assert fault.remedy in problem["remedy"]
    failed = any(fault.level == "ERROR" for fault in faults)
    assert ran.code == int(failed), ran.err
    assert ran.statuses[service] == ("FAILED" if failed else "OK")


# No problems.


def test_a_clean_set_has_no_finding_and_nothing_is_written(production: Production) -> None:
    before = production.transactions()
    ran = production.validate()
    assert ran.code == 0
    assert list(ran.statuses) == ["alpha", "beta", "gamma"]
    for service in ran.json["services"]:
        assert service["problems"] == []
        assert (service["tls"], service["current"], service["pending"]) == ("verified", "a1", 0)
        assert service["server"] == f"localhost:{production.main.port}"
    assert production.transactions() == before


def test_databases_on_servers_restored_from_one_backup_are_distinguished(
    production: Production,
) -> None:
    url = production.url(production.plain.port, tls={"ssl": "disable"})
    ran = production.validate(BETA_SERVICE_DATABASE_URL=url)
    assert ran.code == 0
    assert [problems(ran, name) for name in ran.statuses] == [[], [], []]
    shown = production.invoke("prod.validate", BETA_SERVICE_DATABASE_URL=url).out
    assert shown.startswith("PRODUCTION: 2 servers\n")
    assert f"localhost:{production.plain.port}" in shown


# Connections.

UNREACHED: dict[str, tuple[Variables, Fault]] = {
    "an unknown name": (
        lambda _: {HOST: "no-such-host.invalid"},
        error("The host name 'no-such-host.invalid' did not resolve: ", f"Correct {HOST}"),
    ),
    "no server listens": (
        lambda _: {PORT: str(free_ports(1)[0])},
        error("Connection refused", f"Check {HOST}"),
    ),
    "no server listens at an override": (
        lambda p: {OVERRIDE: p.url(free_ports(1)[0])},
        error("Connection refused", f"Check {OVERRIDE}"),
    ),
    "no TLS": (
        lambda p: {PORT: str(p.plain.port)},
        error("does not offer TLS", f"set {MODE}=disable"),
    ),
    "no certificates named": (
        lambda _: {ROOT: "", "HOME": "/nowhere"},
        error("root certificate file", f"{ROOT}"),
    ),
    "another host name": (
        lambda _: {HOST: "127.0.0.1"},
        error("IP address mismatch", "Connect with a name that the certificate lists"),
    ),
    "another password": (
        lambda _: {"HULEEDU_PROD_DB_PASSWORD": "not the password"},
        error(
            f"refused the login of '{USER}': password authentication failed",
            "Compare HULEEDU_DB_USER and HULEEDU_PROD_DB_PASSWORD",
        ),
    ),
    "no encryption where the server wants it": (
        lambda _: {MODE: "disable", ROOT: ""},
        error("no encryption", "Compare HULEEDU_DB_USER"),
    ),
    "no such database": (
        lambda p: {OVERRIDE: p.url(p.main.port, "nowhere", tls=p.verified())},
        error("has no database 'nowhere'", f'CREATE DATABASE "nowhere" OWNER "{USER}"'),
    ),
}


@pytest.mark.parametrize("fault", UNREACHED)
def test_the_cause_of_a_failed_connection_is_reported(production: Production, fault: str) -> None:
    variables, expected = UNREACHED[fault]
    ran = production.validate("alpha", **variables(production))
    assert_found(ran, expected)
    assert ran.json["services"][0].get("version") is None


@pytest.mark.parametrize("parameter", ["sslmode", "channel_binding"])
def test_a_url_parameter_that_the_driver_refuses_is_found_before_a_migration(
    production: Production, parameter: str
) -> None:
    url = production.url(production.main.port, tls={**production.verified(), parameter: "require"})
    ran = production.validate("alpha", **{OVERRIDE: url})
    found = [problem for problem in problems(ran) if problem["level"] == "ERROR"]
    assert [problem["code"] for problem in found] == ["url-parameter-refused"]
    assert parameter in found[0]["cause"]
    assert OVERRIDE in found[0]["remedy"]
    assert ran.code == 1


def test_a_certificate_of_another_authority_is_not_accepted(
    production: Production, tmp_path: Path
) -> None:
    ran = production.validate("alpha", **{ROOT: str(Authority(tmp_path).file)})
    assert_found(ran, error("certificate of localhost", "Set the file with the authority"))


def test_one_silent_server_leaves_the_findings_of_the_others_complete(
    production: Production,
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        production.changed(
            "ALTER TABLE note ADD COLUMN more text", "ALTER TABLE note DROP COLUMN more"
        ),
    ):
        url = production.url(silent.getsockname()[1], "huleedu_gamma", tls=production.verified())
        other = production.url(production.plain.port, "huleedu_beta")
        ran = production.validate(BETA_SERVICE_DATABASE_URL=other, GAMMA_SERVICE_DATABASE_URL=url)
        silent.accept()[0].close()
    assert list(ran.statuses.items()) == [("alpha", "OK"), ("beta", "FAILED"), ("gamma", "FAILED")]
    assert_found(ran, error("silent for 10 s", "network, firewall"), service="gamma")
    assert_found(
        ran, error("not encrypted", "add ?ssl=verify-full to BETA_SERVICE"), service="beta"
    )
    assert problems(ran) == []


# TLS and poolers.

TRANSPORT: dict[str, tuple[Variables, tuple[Fault, ...], str]] = {
    "an open connection": (
        lambda p: {PORT: str(p.plain.port), MODE: "", ROOT: ""},
        (error("the connection is not encrypted", f"set {MODE}=disable"),),
        "none",
    ),
    "an open connection that is allowed": (
        lambda p: {PORT: str(p.plain.port), MODE: "disable", ROOT: ""},
        (),
        "none",
    ),
    "an open override where the environment allows it": (
        lambda p: {OVERRIDE: p.url(p.plain.port), MODE: "disable", ROOT: ""},
        (),
        "none",
    ),
    "an encrypted connection to anybody": (
        lambda _: {MODE: "require", ROOT: ""},
        (warning("the server certificate is not verified", f"set {MODE}=verify-full and {ROOT}"),),
        "unverified",
    ),
    "an encrypted override to anybody": (
        lambda p: {OVERRIDE: p.url(p.main.port, tls={"ssl": "require"})},
        (warning("the server certificate is not verified", f"add ?ssl=verify-full to {OVERRIDE}"),),
        "unverified",
    ),
    "an authority without a name": (lambda _: {MODE: "verify-ca"}, (), "verified"),
    "an authority and the mode that follows from it": (lambda _: {MODE: ""}, (), "verified"),
    "a standby": (
        lambda p: {PORT: str(p.standby.port), MODE: "verify-full"},
        (error("the server is a standby", f"Set {HOST} to the primary server"),),
        "verified",
    ),
}


@pytest.mark.parametrize("transport", TRANSPORT)
def test_the_tls_state_of_a_connection_is_reported(production: Production, transport: str) -> None:
    variables, faults, tls = TRANSPORT[transport]
    ran = production.validate("alpha", **variables(production))
    assert_found(ran, *faults)
    assert ran.json["services"][0]["tls"] == tls


@MODES
def test_a_pooler_is_an_error_unless_there_is_a_direct_url(
    production: Production, mode: str
) -> None:
    with bouncer(production, mode) as port:
        pooled = {PORT: str(port)}
        ran = production.validate("alpha", **pooled)
        assert_found(ran, error("goes through a pooler", DIRECT))
        around = production.url(production.main.port, tls=production.verified())
        ran = production.validate("alpha", **pooled, **{DIRECT: around})
        assert_found(ran)
        assert ran.json["services"][0]["server"] == f"localhost:{production.main.port}"
        elsewhere = production.url(production.main.port, "huleedu_beta", tls=production.verified())
        ran = production.validate("alpha", **pooled, **{DIRECT: elsewhere})
        assert_found(ran, error(f"{DIRECT} connects to a different database", f"Correct {DIRECT}"))


def test_the_direct_url_of_an_unreachable_pooler_is_used(production: Production) -> None:
    direct = production.url(production.main.port, tls=production.verified())
    ran = production.validate("alpha", **{PORT: str(free_ports(1)[0]), DIRECT: direct})
    assert_found(
        ran, warning("was not compared with the service's own URL: Nothing", f"Compare {DIRECT}")
    )


# Rights of the role, and the state of the database. Each fault is created, found and removed.

SEEDED: dict[str, tuple[str, str, tuple[Fault, ...]]] = {
    "no right to connect": (
        "REVOKE CONNECT ON DATABASE huleedu_alpha FROM PUBLIC",
        "GRANT CONNECT ON DATABASE huleedu_alpha TO PUBLIC",
        (error("permission denied for database", "CONNECT privilege"),),
    ),
    "no right to create": (
        f"REVOKE CREATE ON SCHEMA public FROM {USER}",
        f"GRANT CREATE ON SCHEMA public TO {USER}",
        (
            error(
                f"'{USER}' may not create tables in the schema \"public\"",
                f'GRANT USAGE, CREATE ON SCHEMA "public" TO "{USER}"',
            ),
        ),
    ),
    "a table of another role": (
        "ALTER TABLE note OWNER TO postgres_admin",
        f"ALTER TABLE note OWNER TO {USER}",
        (error("does not own public.note", "ALTER TABLE public.note OWNER TO"),),
    ),
    "a revision that may not be read": (
        "ALTER TABLE alembic_version OWNER TO postgres_admin",
        f"ALTER TABLE alembic_version OWNER TO {USER}",
        (
            error("does not own public.alembic_version", "OWNER TO"),
            error("permission denied for table alembic_version", "GRANT"),
        ),
    ),
    "read-only by default": (
        f"ALTER ROLE {USER} SET default_transaction_read_only = on",
        f"ALTER ROLE {USER} RESET default_transaction_read_only",
        (error("transactions are read-only by default", "default_transaction_read_only"),),
    ),
    "few connections for the role": (
        f"ALTER ROLE {USER} CONNECTION LIMIT 4",
        f"ALTER ROLE {USER} CONNECTION LIMIT -1",
        (warning("only 4 more connections are allowed", "pg_stat_activity"),),
    ),
    "few connections for the database": (
        "ALTER DATABASE huleedu_alpha CONNECTION LIMIT 2",
        "ALTER DATABASE huleedu_alpha CONNECTION LIMIT -1",
        (warning("only 2 more connections are allowed", "pg_stat_activity"),),
    ),
    "an unknown revision": (
        "UPDATE alembic_version SET version_num = 'zz'",
        "UPDATE alembic_version SET version_num = 'a1'",
        (
            error(
                "the database is at zz, which is not in the revision files",
                "Deploy from the branch",
            ),
        ),
    ),
    "development's environment tag": (
        """COMMENT ON DATABASE huleedu_alpha IS 'huleedu-tasks {"environment": "development"}'""",
        """COMMENT ON DATABASE huleedu_alpha IS 'huleedu-tasks {"environment": "production"}'""",
        (error("is tagged as development, not as production", "COMMENT ON DATABASE"),),
    ),
    "a tag that cannot be read": (
        "COMMENT ON DATABASE huleedu_alpha IS 'huleedu-tasks {'",
        """COMMENT ON DATABASE huleedu_alpha IS 'huleedu-tasks {"environment": "production"}'""",
        (error("could not be parsed: 'huleedu-tasks {'", "COMMENT ON DATABASE"),),
    ),
    "no environment tag": (
        "COMMENT ON DATABASE huleedu_alpha IS 'Our essays.'",
        """COMMENT ON DATABASE huleedu_alpha IS 'huleedu-tasks {"environment": "production"}'""",
        (
            warning(
                f"'{USER}' may not set it: it does not own the database",
                'COMMENT ON DATABASE "huleedu_alpha" IS E\'Our essays.huleedu-tasks {"environment"',
            ),
        ),
    ),
}


@pytest.mark.parametrize("fault", SEEDED)
def test_a_seeded_fault_is_found_and_nothing_else(production: Production, fault: str) -> None:
    do, undo, faults = SEEDED[fault]
    with production.changed(do, undo):
        assert_found(production.validate("alpha"), *faults)


def test_an_invalid_index_is_found(production: Production) -> None:
    ask(production.admin(), "INSERT INTO note VALUES (1, 'same'), (2, 'same')")
    with pytest.raises(asyncpg.UniqueViolationError):
        ask(production.admin(), "CREATE UNIQUE INDEX CONCURRENTLY note_text ON note (text)")
    ran = production.validate("alpha")
    ask(production.admin(), "DROP INDEX note_text", "TRUNCATE note")
    assert_found(ran, warning("invalid indexes", "DROP INDEX CONCURRENTLY note_text"))


def test_a_prepared_transaction_is_found(production: Production) -> None:
    ask(production.admin(), "BEGIN", "LOCK note IN SHARE MODE", "PREPARE TRANSACTION 'left over'")
    ran = production.validate("alpha")
    ask(production.admin(), "ROLLBACK PREPARED 'left over'")
    assert_found(ran, warning("'left over' (postgres_admin) has held", "ROLLBACK PREPARED"))


async def test_a_long_open_transaction_is_found_if_the_server_shows_it(
    production: Production,
) -> None:
    """Only a member of pg_read_all_stats sees the age of another role's transaction."""
    own = Secret(PASSWORD)
    async with AsyncExitStack() as stack:
        sessions = []
        for url in (production.url(production.main.port, password=own), production.admin()):
            session = await connect(url.replace("+asyncpg", ""))
            stack.push_async_callback(session.close)
            await session.execute("BEGIN")
            await session.execute("SELECT FROM note")
            sessions.append(session)
        pids = [session.get_server_pid() for session in sessions]
        admin = await connect(admin_url(production.main, "postgres"))
        stack.push_async_callback(admin.close)
        await wait_for(lambda: admin.fetchval(AGE, pids), True)
        first, second = (
            warning(f"pid {pid} ({who} the-test 127.0.0.1) has a transaction open for ", f"{pid}")
            for pid, who in zip(pids, (USER, "postgres_admin"), strict=True)
        )
        hidden = Fault("INFO", "(sessions: 1)", f'GRANT pg_read_all_stats TO "{USER}"')
        assert_found(production.validate("alpha"), first, hidden)
        await admin.execute(f"GRANT pg_read_all_stats TO {USER}")
        stack.push_async_callback(admin.execute, f"REVOKE pg_read_all_stats FROM {USER}")
        assert_found(production.validate("alpha"), first, second)


async def test_validate_does_not_wait_for_a_running_migration(
    production: Production,
) -> None:
    migration = await connect(production.admin())
    await migration.execute("BEGIN")
    await migration.execute("LOCK alembic_version")
    ran = production.validate("alpha")
    await migration.close()
    locked = error("alembic_version is locked", "Wait until the migration")
    hidden = Fault("INFO", "(sessions: 1)", "GRANT pg_read_all_stats")
    assert_found(ran, locked, hidden)


@contextmanager
def needing(production: Production, extension: str) -> Iterator[None]:
    """Add an extension to alpha's registry entry."""
    entries = production.monorepo.services
    changed = [{**entry, "extensions": [extension]} for entry in entries[:1]]
    production.monorepo.register(*changed, *entries[1:])
    try:
        yield
    finally:
        production.monorepo.register(*entries)


def test_an_extension_the_server_does_not_have_is_an_error(production: Production) -> None:
    with needing(production, "no_such_thing"):
        ran = production.validate("alpha")
    assert_found(ran, error("does not have the extension 'no_such_thing'", "the registry"))


@pytest.mark.parametrize(
    ("do", "undo", "allowed"),
    [
        ("SELECT", "SELECT", False),
        (
            f"GRANT CREATE ON DATABASE huleedu_alpha TO {USER}",
            f"REVOKE CREATE ON DATABASE huleedu_alpha FROM {USER}",
            True,
        ),
        (f"CREATE ROLE rds_superuser ROLE {USER}", "DROP ROLE rds_superuser", True),
        (f"CREATE EXTENSION {EXTENSION}", f"DROP EXTENSION {EXTENSION}", True),
    ],
    ids=["forbidden", "trusted", "managed", "there"],
)
def test_an_extension_must_exist_or_the_role_must_be_able_to_create_it(
    production: Production, do: str, undo: str, allowed: bool
) -> None:
    with needing(production, EXTENSION), production.changed(do, undo):
        ran = production.validate("alpha")
    forbidden = error("may not create the extension 'pg_trgm'", 'CREATE EXTENSION "pg_trgm"')
    assert_found(ran, *(() if allowed else (forbidden,)))


def test_pending_revisions_are_reported_and_are_not_an_error(production: Production) -> None:
    path = production.monorepo.add_revision("alpha", "b2", "a1")
    try:
        ran = production.validate("alpha")
    finally:
        path.unlink()
    assert_found(ran, Fault("INFO", "1 revision is pending", ""))


def test_an_edited_revision_is_a_warning(production: Production) -> None:
    tag = 'huleedu-tasks {{"environment": "production"{}}}'
    noted = ', "revisions": {"alpha": {"a1": "00000000 11111111 2026-11-01"}}'
    do, undo = (f"COMMENT ON DATABASE huleedu_alpha IS '{tag.format(x)}'" for x in (noted, ""))
    with production.changed(do, undo):
        ran = production.validate("alpha")
    edited = "revision a1 was edited after it was applied on 2026-11-01: services/alpha_service/"
    assert_found(ran, warning(edited, "put the change into a new revision"))


def test_two_heads_are_an_error_beside_the_problems_of_the_server(production: Production) -> None:
    added = [production.monorepo.add_revision("alpha", name, "a1") for name in ("b2", "c2")]
    try:
        ran = production.validate("alpha")
    finally:
        for path in added:
            path.unlink()
    heads = (error(f"revision {name} is one of several heads", "merge") for name in ("b2", "c2"))
    assert_found(ran, *heads)
    assert ran.json["services"][0]["current"] == "a1"


def test_two_services_that_reach_one_database_by_different_names_are_found(
    production: Production,
) -> None:
    here = production.url(
        production.main.port, host="127.0.0.1", tls=production.verified("verify-ca")
    )
    ran = production.validate(BETA_SERVICE_DATABASE_URL=here)
    assert problems(ran) == problems(ran, "gamma") == []
    assert_found(ran, error("it connects to the same database as alpha", "Correct"), service="beta")


# The screen.


def test_several_problems_are_listed_below_the_table_most_severe_first(
    production: Production,
) -> None:
    added = production.monorepo.add_revision("beta", "b2", "a1")
    with production.changed(
        SEEDED["few connections for the role"][0], f"ALTER ROLE {USER} CONNECTION LIMIT -1"
    ):
        try:
            ran = production.invoke("prod.validate", GAMMA_SERVICE_DATABASE_URL=production.url(1))
        finally:
            added.unlink()
    assert ran.code == 1
    below = ran.out.partition("\n\n")[2].partition("\n\n")[2]
    assert [line.split(" ", 1)[0] for line in below.splitlines() if line[0] != " "] == [
        "ERROR",
        "WARNING",
        "INFO",
    ]
    # A problem that several services share is shown once.
    assert re.search(r"^WARNING  alpha, beta: only \d more connections", below, re.MULTILINE)
    assert "gamma: Nothing answers at localhost:1: Connection refused" in below
    assert ran.err.rstrip().splitlines()[-1].startswith("prod.validate: 2 OK, 1 FAILED in ")


def test_staging_has_its_own_variables_and_every_screen_names_it(production: Production) -> None:
    tls = {"SSLMODE": "verify-full", "SSLROOTCERT": str(production.authority.file)}
    staging = external("STAGING", "staging", production.main.port, **tls)
    unset = dict.fromkeys(production.variables, "")
    for command in ("prod.validate", "prod.status"):
        ran = production.invoke(command, **unset | staging)
        assert ran.out.startswith(f"STAGING: localhost:{production.main.port}\n")
        assert "(staging; external: " in ran.err
    ran = production.validate(**unset | staging)
    tagged = error("is tagged as production, not as staging", "Compare HULEEDU_STAGING_DB_HOST")
    for name in ran.statuses:
        assert_found(ran, tagged, service=name)


def test_no_command_line_contains_the_password(production: Production) -> None:
    with watched_command_lines() as lines:
        production.validate("alpha")
        production.invoke("prod.validate", "--service", "alpha", HULEEDU_PROD_DB_SSLMODE="disable")
    assert lines.any_has(f"{sys.executable} -m invoke prod.validate")
    assert_no_password(*lines.seen)
