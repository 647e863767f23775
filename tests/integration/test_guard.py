"""The guard: every combination of facts, checked in the log of the server."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import asyncpg
import pexpect
import pytest
import pytest_asyncio

from huleedu_tasks.app import App
from huleedu_tasks.db.development import Development
from huleedu_tasks.errors import ExitCode, HuleEduError, Refused
from huleedu_tasks.guard import Guard
from huleedu_tasks.report import Report
from tests.support.db_runs import app_of, development_of, without_initdb
from tests.support.monorepo import (
    PASSWORD,
    Monorepo,
    empty_monorepo,
    free_ports,
    new_monorepo,
)
from tests.support.postgres import (
    ask,
    can_listen,
    changes,
    connect,
    log_every_statement,
    proxy,
    served_at,
)
from tests.support.terminal import typed

in_the_modules_loop = pytest.mark.asyncio(loop_scope="module")

SERVERS = ("own", "foreign", "proxy to foreign")
ENVIRONMENTS = ("development", "testing", "staging", "production")
DISPOSABLE = ("development", "testing")
OVERRIDES = ("none", "same address", "other port", "other host")
TAGS = ("none", *ENVIRONMENTS, "unreadable")
PRECIOUS = "CREATE TABLE IF NOT EXISTS precious AS SELECT 'data' AS text"
KEPT = "SELECT text FROM precious"


@dataclass(frozen=True)
class Cell:
    """One combination of facts, and what they allow."""

    command: str
    environment: str
    override: str
    tag: str
    dry_run: bool = False

    def expected(self, server: str) -> ExitCode:
        proven = self.environment in DISPOSABLE and self.override in ("none", "same address")
        if not proven:
            return ExitCode.REFUSED
        if self.dry_run:
            return ExitCode.DONE
        if server != "own":
            # Its own server cannot start where another one listens: nothing is even asked.
            return ExitCode.FAILED
        if self.environment == "testing":
            # Only the override names the tagged database, that of development.
            return ExitCode.DONE if self.override == "none" else ExitCode.REFUSED
        return ExitCode.DONE if self.tag in ("none", *DISPOSABLE) else ExitCode.REFUSED

    def __str__(self) -> str:
        facts = (self.command, self.environment, self.override, self.tag)
        return "-".join((*facts, *["dry"] * self.dry_run))


ALL_OF_RESET = [
    Cell("reset", *facts, dry_run=dry_run)
    for dry_run in (False, True)
    for facts in product(ENVIRONMENTS, OVERRIDES, TAGS)
]
SOME_OF_THE_OTHERS = [
    Cell(*facts)
    for facts in product(
        ("migrate", "seed"),
        ENVIRONMENTS,
        ("none", "other port"),
        ("none", "development", "production", "unreadable"),
    )
]
# No factor of their size is one of the number of tags, overrides or environments.
SIZE = 5
CELLS = [*ALL_OF_RESET, *SOME_OF_THE_OTHERS]
GROUPS = [CELLS[start : start + SIZE] for start in range(0, len(CELLS), SIZE)]
COMMANDS: dict[str, Callable[[Development], Awaitable[Report]]] = {
    "reset": lambda flows: flows.reset(),
    "migrate": lambda flows: flows.migrate("head"),
    "seed": lambda flows: flows.seed(),
}
# Statements that each command must log if it is allowed.
TRACES = {
    "reset": "DROP DATABASE",
    "migrate": "CREATE TABLE note",
    "seed": "CREATE TABLE IF NOT EXISTS seeded",
}


@dataclass
class Victim:
    """A database that may or may not be destroyed, with sessions open on it and beside it."""

    url: str
    admin: asyncpg.Connection
    session: asyncpg.Connection | None = None

    async def prepare(self, tag: str) -> None:
        """Give it data worth keeping, nothing migrated, and an environment tag."""
        if self.session is None or self.session.is_closed():
            self.session = await connect(self.url)
        await self.session.execute(f"{PRECIOUS}; DROP TABLE IF EXISTS note, alembic_version")
        name = self.url.rpartition("/")[2]
        await self.admin.execute(f"DROP DATABASE IF EXISTS {name}_test")
        await self.admin.execute(tag_statement(name, tag))

    async def survives(self) -> bool:
        """Whether the session is still there, and with it the data."""
        try:
            return bool(self.session and await self.session.fetchval(KEPT) == "data")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False


@dataclass
class Site:
    """Our servers, another server, and the one that answers on our port."""

    server: str
    home: Monorepo
    other: Monorepo
    elsewhere: int
    victims: dict[str, Victim]
    apps: dict[tuple[str, str], App] = field(default_factory=dict)

    def app(self, cell: Cell) -> App:
        """Return the App for an environment whose variables all point at our own port."""
        key = (cell.environment, cell.override)
        if key not in self.apps:
            self.apps[key] = app_of(self.home, **self.variables(cell))
        return self.apps[key]

    def variables(self, cell: Cell) -> dict[str, str]:
        port = self.home.port("alpha")
        address = {
            "same address": f"127.0.0.1:{port}",
            "other port": f"localhost:{self.elsewhere}",
            "other host": f"127.0.0.2:{port}",
        }.get(cell.override)
        variables = {"HULEEDU_ENVIRONMENT": cell.environment}
        for prefix in ("HULEEDU_PROD_DB", "HULEEDU_STAGING_DB"):
            settings = {"HOST": "localhost", "PORT": str(port), "PASSWORD": PASSWORD}
            variables |= {f"{prefix}_{name}": value for name, value in settings.items()}
        if address:
            url = self.home.url("alpha").replace(f"localhost:{port}", address)
            variables["ALPHA_SERVICE_DATABASE_URL"] = url
            variables["BETA_SERVICE_DATABASE_URL"] = url.replace("alpha", "beta")
        return variables

    def logs(self) -> dict[Path, int]:
        """Return the log of each server of both owners, and its size."""
        states = (self.home.state, self.other.state)
        logs = [log for state in states for log in state.glob("embedded/*/*/server.log")]
        return {path: path.stat().st_size for path in logs}

    def sent_since(self, before: dict[Path, int]) -> list[str]:
        """Return the statements that change something and were logged since then."""
        texts = (path.read_bytes()[before.get(path, 0) :] for path in self.logs())
        return [sql for text in texts for sql in changes(text.decode(errors="replace"))]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SERVERS)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Let one of three servers answer on our port; all have the same login and names."""
    server: str = request.param
    async with AsyncExitStack() as stack:
        home, other = (stack.enter_context(guarded_monorepo()) for _ in range(2))
        elsewhere = other.port("alpha")
        if server == "foreign":
            other.register(*home.services)
        await up(other)
        if server == "proxy to foreign":
            for name in ("alpha", "beta"):
                stack.enter_context(proxy(home.port(name), other.port(name)))
        attacked = other
        if server == "own":
            await up(attacked := home)
        victims = {
            name: await stack.enter_async_context(victim(attacked, name))
            for name in ("alpha", "beta")
        }
        yield Site(server, home, other, elsewhere, victims)


@contextmanager
def guarded_monorepo() -> Iterator[Monorepo]:
    """Make a service with a seed and nothing to migrate, and one with a real migration."""
    with empty_monorepo() as monorepo:
        alpha, beta = free_ports(2)
        without_initdb(monorepo)
        monorepo.add_service("alpha", alpha, python="true", seeds=["seed.sql"])
        monorepo.add_service("beta", beta, seeds=[])
        monorepo.path("services/alpha_service/alembic/versions/a1.py").unlink()
        monorepo.write(
            "seed.sql", "CREATE TABLE IF NOT EXISTS seeded (id int);\nINSERT INTO seeded VALUES (1)"
        )
        yield monorepo


async def up(monorepo: Monorepo) -> None:
    assert (await development_of(app_of(monorepo)).up()).exit_code is ExitCode.DONE


@asynccontextmanager
async def victim(monorepo: Monorepo, name: str) -> AsyncIterator[Victim]:
    await log_every_statement(monorepo.url(name))
    admin = await connect(monorepo.url(name, database="postgres"))
    made = Victim(monorepo.url(name), admin)
    yield made
    for opened in filter(None, (admin, made.session)):
        opened.terminate()


def tag_statement(database: str, tag: str) -> str:
    """Return the statement that tags a database, as it would have been tagged elsewhere."""
    document = json.dumps({"environment": tag, "seeds": ""})
    comment = {"none": "NULL", "unreadable": "'huleedu-tasks {\"environment'"}.get(
        tag, f"'huleedu-tasks {document}'"
    )
    return f"COMMENT ON DATABASE {database} IS {comment}"


async def exit_code(flow: Awaitable[Report]) -> ExitCode:
    try:
        return (await flow).exit_code
    except HuleEduError as error:
        return error.exit_code


@in_the_modules_loop
@pytest.mark.parametrize("cells", GROUPS, ids=lambda cells: str(cells[0]))
async def test_only_a_database_that_is_proven_disposable_is_changed(
    site: Site, cells: Sequence[Cell], request: pytest.FixtureRequest
) -> None:
    """Of each group, one cell is tried on a server that is not ours."""
    every = request.config.getoption("--every-combination")
    for cell in cells if every or site.server == "own" else cells[:1]:
        await assert_only_proven_is_changed(site, cell)


async def assert_only_proven_is_changed(site: Site, cell: Cell) -> None:
    service = "beta" if cell.command == "migrate" else "alpha"
    target = site.victims[service]
    await target.prepare(cell.tag)
    before = site.logs()
    flows = development_of(site.app(cell), service, dry_run=cell.dry_run)

    assert await exit_code(COMMANDS[cell.command](flows)) is cell.expected(site.server), cell

    sent = site.sent_since(before)
    if cell.expected(site.server) is ExitCode.DONE and not cell.dry_run:
        assert any(sql.startswith(TRACES[cell.command]) for sql in sent), cell
        is_kept = cell.environment == "testing" or cell.command != "reset"
        assert await target.survives() is is_kept, cell
    else:
        assert not sent, cell
        assert await target.survives(), cell


@in_the_modules_loop
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
async def test_the_proof_fails_on_any_connection_to_another_server(
    site: Site, environment: str, tag: str
) -> None:
    target = site.victims["alpha"]
    await target.prepare(tag)
    app = site.app(Cell("reset", environment, "none", tag))
    (service,) = app.services(["alpha"])
    # Directly, or through the proxy on our port.
    admin = await connect(site.home.url("alpha", database="postgres"))
    guard = Guard(settings=app.settings, provider=app.provider)
    try:
        await guard.prove_disposable(admin, service, "huleedu_alpha")
        passed = True
    except Refused:
        passed = False
    finally:
        await admin.close()
    disposable = environment == "development" and tag in ("none", *DISPOSABLE)
    assert passed is (site.server == "own" and disposable)


@pytest.fixture(scope="module")
def beside() -> Iterator[tuple[Monorepo, Monorepo]]:
    """Our server on 127.0.0.1, and another one on the same port of ::1."""
    if not can_listen("::1"):
        pytest.skip("this machine has no ::1")
    with ExitStack() as stack:
        home, other = (stack.enter_context(guarded_monorepo()) for _ in range(2))
        asyncio.run(up(home))
        asyncio.run(up(other))
        asyncio.run(log_every_statement(other.url("alpha")))
        asyncio.run(development_of(app_of(other)).down())
        stack.enter_context(served_at(other, "alpha", "::1", home.port("alpha")))
        yield home, other


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_foreign_server_at_our_port_of_another_loopback_address_is_refused(
    beside: tuple[Monorepo, Monorepo], command: str
) -> None:
    home, other = beside
    override = home.url("alpha").replace("localhost", "[::1]")
    app = app_of(home, ALPHA_SERVICE_DATABASE_URL=override)
    code = await exit_code(COMMANDS[command](development_of(app, "alpha")))
    assert code is ExitCode.REFUSED
    assert changes(other.server_log("alpha")) == []


# The same through the command line.


@pytest.fixture(scope="module")
def watched() -> Iterator[Monorepo]:
    """Two services after a reset, whose servers log every statement."""
    with new_monorepo(["alpha", "beta"]) as made:
        assert without_initdb(made).invoke("db.reset").code == 0
        for name in ("alpha", "beta"):
            asyncio.run(log_every_statement(made.url(name)))
            ask(made.url(name), PRECIOUS)
        yield made


ELSEWHERE = {"ALPHA_SERVICE_DATABASE_URL": "postgresql+asyncpg://u:p@localhost:1/huleedu_alpha"}


@pytest.mark.parametrize(
    ("arguments", "environment", "tag", "code"),
    [
        ("db.reset", {}, "production", 3),
        ("db.reset", {}, "unreadable", 3),
        ("db.reset --confirm huleedu_alpha", {}, "production", 3),
        ("db.reset", {"HULEEDU_ENVIRONMENT": "production"}, "development", 3),
        ("db.reset", {"HULEEDU_ENVIRONMENT": "Staging"}, "development", 3),
        ("db.reset", {"HULEEDU_ENVIRONMENT": "prod"}, "development", 2),
        ("db.reset", ELSEWHERE, "development", 3),
        ("db.reset --volumes", {}, "production", 3),
        ("db.reset --volumes", ELSEWHERE, "development", 3),
        ("db.reset --volumes --dry-run", {}, "development", 0),
        ("db.migrate", {}, "production", 3),
        ("db.migrate", ELSEWHERE, "none", 3),
        ("db.seed", {"HULEEDU_ENVIRONMENT": "production"}, "development", 3),
        ("--dry db.reset", {}, "development", 0),
        ("db.migrate --dry-run", {}, "none", 0),
        ("db.seed --dry", {}, "development", 0),
    ],
    ids=lambda value: value.rpartition("=")[2] if isinstance(value, str) else None,
)
def test_a_command_that_may_not_change_anything_changes_nothing(
    watched: Monorepo, arguments: str, environment: dict[str, str], tag: str, code: int
) -> None:
    ask(watched.url("alpha"), tag_statement("huleedu_alpha", tag))
    before = len(changes(watched.server_log("alpha") + watched.server_log("beta")))
    ran = watched.invoke(*arguments.split(), env=environment)
    assert ran.code == code, ran.out + ran.err
    assert len(changes(watched.server_log("alpha") + watched.server_log("beta"))) == before
    assert ask(watched.url("alpha"), KEPT) == ask(watched.url("beta"), KEPT) == [("data",)]


def test_one_refused_service_leaves_all_others_untouched(watched: Monorepo) -> None:
    ask(watched.url("alpha"), tag_statement("huleedu_alpha", "production"))
    ran = watched.invoke("db.reset", "--json")
    assert ran.code == 3
    assert ran.statuses == {"alpha": "FAILED", "beta": "ABORTED"}
    refused, aborted = ran.json["services"]
    assert "production" in refused["detail"]
    assert "alpha" in aborted["detail"]
    assert ask(watched.url("beta"), KEPT) == [("data",)]


def test_an_allowed_command_is_seen_in_the_same_log(watched: Monorepo) -> None:
    ask(watched.url("alpha"), tag_statement("huleedu_alpha", "testing"))
    ran = watched.invoke("db.reset", "--service", "alpha")
    assert ran.code == 0, ran.err
    assert any(sql.startswith("DROP DATABASE") for sql in changes(watched.server_log("alpha")))
    ask(watched.url("alpha"), PRECIOUS)


# Existing servers, where the user confirms.


@pytest.fixture(scope="module")
def others() -> Iterator[Monorepo]:
    """One service on a server that `existing` finds running."""
    with new_monorepo(["alpha"]) as made:
        assert without_initdb(made).invoke("db.up").code == 0
        made.environment["HULEEDU_PROVIDER"] = "existing"
        yield made


@pytest.fixture
def untagged(others: Monorepo) -> Monorepo:
    """Its database with data in it and no environment tag on it."""
    ask(
        others.url("alpha", database="postgres"),
        "DROP DATABASE IF EXISTS huleedu_alpha WITH (FORCE)",
        "CREATE DATABASE huleedu_alpha",
    )
    ask(others.url("alpha"), PRECIOUS)
    return others


def is_kept(monorepo: Monorepo) -> bool:
    found = ask(monorepo.url("alpha"), "SELECT to_regclass('precious') IS NOT NULL")
    return found == [(True,)]


@pytest.mark.parametrize(
    "arguments",
    [
        "db.reset",
        "db.migrate",
        "db.seed",
        "db.reset --confirm huleedu_beta",
        "db.reset --confirm alpha",
    ],
)
def test_an_untagged_database_is_refused_without_its_name(
    untagged: Monorepo, arguments: str
) -> None:
    ran = untagged.invoke(*arguments.split())
    assert ran.code == 3
    assert "--confirm huleedu_alpha" in ran.err
    assert is_kept(untagged)


def test_a_confirmed_database_is_reset_and_carries_the_tag_from_then_on(
    untagged: Monorepo,
) -> None:
    assert untagged.invoke("db.reset", "--confirm", "huleedu_alpha").code == 0
    assert not is_kept(untagged)
    assert untagged.invoke("db.reset").code == 0


def test_a_confirmed_database_is_migrated_with_its_data_kept_and_tagged(
    untagged: Monorepo,
) -> None:
    assert untagged.invoke("db.migrate", "--confirm", "huleedu_alpha").code == 0
    assert is_kept(untagged)
    assert untagged.invoke("db.migrate").code == 0


def test_a_missing_database_is_created(untagged: Monorepo) -> None:
    maintenance = untagged.url("alpha", database="postgres")
    ask(maintenance, "DROP DATABASE huleedu_alpha WITH (FORCE)")
    ran = untagged.invoke("db.reset")
    assert ran.code == 0, ran.err
    assert ask(untagged.url("alpha"), "SELECT count(*) FROM note") == [(2,)]


@pytest.mark.parametrize("tag", ["staging", "production", "unreadable"])
def test_no_confirmation_releases_a_database_of_another_environment(
    untagged: Monorepo, tag: str
) -> None:
    ask(untagged.url("alpha"), tag_statement("huleedu_alpha", tag))
    ran = untagged.invoke("db.reset", "--confirm", "huleedu_alpha")
    assert ran.code == 3
    assert is_kept(untagged)


@pytest.mark.parametrize(
    ("answer", "code"),
    [("huleedu_alpha\r", 0), ("y\r", 3), ("\x03", 130)],
    ids=["right", "yes", "Ctrl-C"],
)
def test_a_user_at_a_terminal_types_the_name(untagged: Monorepo, answer: str, code: int) -> None:
    terminal = typed(untagged, "db.reset", variables={"PROMPT_TOOLKIT_NO_CPR": "1"})
    terminal.expect("Type huleedu_alpha to go on")
    terminal.send(answer)
    terminal.expect(pexpect.EOF)
    assert terminal.wait() == code, terminal.before
    assert is_kept(untagged) is (code != 0)


def test_a_pipe_cannot_confirm(untagged: Monorepo) -> None:
    command = untagged.fork("db.reset", stdin=subprocess.PIPE)
    out, err = command.communicate("huleedu_alpha\n" * 1000, timeout=60)
    assert command.returncode == 3
    assert "Type huleedu_alpha to go on" not in out + err
    assert is_kept(untagged)


def test_existing_servers_are_neither_started_nor_stopped(untagged: Monorepo) -> None:
    before = untagged.server_pid("alpha")
    assert untagged.invoke("db.up").code == 0
    assert untagged.invoke("db.down").code == 0
    assert untagged.server_pid("alpha") == before
    assert is_kept(untagged)
