"""Production for the tests: real servers with TLS, and a role with minimal rights.

`main` has every database, and requires TLS, as `localhost`; `plain` is a copy
of it that knows no TLS; `standby` follows it. All three stand on one system identifier, as servers
restored from one backup do.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from huleedu_tasks import process
from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.databases import EnvironmentTag, write_tag
from huleedu_tasks.servers.cluster import Cluster
from huleedu_tasks.servers.embedded import EmbeddedServers, server_account
from tests.support.db_runs import app_of
from tests.support.fork_server import forked_scripts
from tests.support.migrating import migrate
from tests.support.monorepo import (
    PASSWORD,
    USER,
    Monorepo,
    Ran,
    free_ports,
    new_monorepo,
    wait_until,
)
from tests.support.observe import assert_no_password_on_screen
from tests.support.postgres import TOOL, ask, connect, is_listening
from tests.support.values import settings

SERVICES = ("alpha", "beta", "gamma")
# The pool modes of PgBouncer.
MODES = pytest.mark.parametrize("mode", ["transaction", "session"])
ADMIN = "postgres_admin"
ADMIN_PASSWORD = "administrators-own"
# The account that runs the tests connects without TLS; the role of the services cannot.
ONLY_TLS = f"""\
host all {ADMIN} 127.0.0.1/32 scram-sha-256
host replication {ADMIN} 127.0.0.1/32 scram-sha-256
hostssl all all 127.0.0.1/32 scram-sha-256
"""
CONFIGURATION = """
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
max_connections = 120
max_prepared_transactions = 5
autovacuum = off
log_statement = all
log_line_prefix = '%a|'
"""
NO_TLS = "ssl = off\n"
READING = {"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "SELECT", "WITH", "SET"}
# pg_dump prepares its queries, and locks tables in ACCESS SHARE mode.
DUMPING = {"PREPARE", "EXECUTE", "LOCK"}
# The statement of PgBouncer itself when it gives a session to another client.
RETURNING = {"DISCARD"}
_SAID = re.compile(rf"^{TOOL}\|LOG:  (?:statement|execute [^:]+): (\w+)", re.MULTILINE)
BOUNCER = """\
[databases]
* = host=127.0.0.1 port={server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {directory}/users
pool_mode = {mode}
client_tls_sslmode = require
client_tls_cert_file = {directory}/server.crt
client_tls_key_file = {directory}/server.key
server_tls_sslmode = require
"""


@dataclass(frozen=True)
class Authority:
    """A certificate authority, generated for the test."""

    directory: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def file(self) -> Path:
        """The path of the root certificate for clients."""
        path = self.directory / "ca.pem"
        self.ca.cert_pem.write_to_path(path)
        return path

    def issue(self, name: str, directory: Path) -> None:
        """Put a certificate for a host, and its key, into a server's directory."""
        issued = self.ca.issue_cert(name)
        certificate, key = directory / "server.crt", directory / "server.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key)
        _give(certificate, key)


@dataclass(frozen=True)
class Production:
    """A monorepo with a running production, and the variables that select it."""

    monorepo: Monorepo
    authority: Authority
    main: Cluster
    plain: Cluster
    standby: Cluster
    password: str = PASSWORD

    @property
    def variables(self) -> dict[str, str]:
        """The variables of a correct configuration."""
        stated = {"SSLMODE": "verify-full", "SSLROOTCERT": str(self.authority.file)}
        return external("PROD", "production", self.main.port, PASSWORD=self.password, **stated)

    def invoke(self, *arguments: str, **variables: str) -> Ran:
        """Run a command; assert that it changed nothing and printed no password."""
        before = len(self.log)
        ran = self.monorepo.invoke(*arguments, env=self.variables | variables)
        said = {word.upper() for word in _SAID.findall(self.log[before:])}
        assert said <= READING | DUMPING | RETURNING, said
        assert_no_password_on_screen(ran)
        return ran

    def validate(self, *names: str, **variables: str) -> Ran:
        """Run `prod.validate --json` for some services, or all."""
        return self.invoke("prod.validate", "--json", *selected(names), **variables)

    def url(self, port: int, database: str = "huleedu_alpha", **parts: Any) -> str:
        """Return the value of an override variable."""
        tls: dict[str, str] = parts.pop("tls", {})
        stated = {"user": USER, "password": Secret(self.password), "host": "localhost", **parts}
        found = DatabaseUrl(port=port, database=database, query=tuple(tls.items()), **stated)
        return found.reveal()

    def verified(self, mode: str = "verify-full") -> dict[str, str]:
        """Return the TLS parameters of an override variable."""
        return {"ssl": mode, "dsn": f"postgresql://?sslrootcert={self.authority.file}"}

    def admin(self, database: str = "huleedu_alpha") -> str:
        """Return the URL with which the administrator gets into a database of `main`."""
        return admin_url(self.main, database)

    @property
    def log(self) -> str:
        """The log of `main`: every statement, with its client."""
        return self.main.log.read_text(errors="replace")

    @contextmanager
    def changed(self, do: str, undo: str) -> Iterator[None]:
        """Change alpha's database as the administrator during a `with` block."""
        ask(self.admin(), do)
        try:
            yield
        finally:
            ask(self.admin(), undo)

    def transactions(self) -> int:
        """Return the number of transactions that changed `main` since it was created."""
        ((number,),) = ask(self.admin(), "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        return int(number)


def selected(names: Sequence[str]) -> list[str]:
    """Return the flags that select services."""
    return [text for name in names for text in ("--service", name)]


def external(prefix: str, environment: str, port: int, **more: str) -> dict[str, str]:
    """Return the variables of production or staging."""
    stated = {"HOST": "localhost", "PORT": str(port), "PASSWORD": PASSWORD, **more}
    variables = {f"HULEEDU_{prefix}_DB_{name}": value for name, value in stated.items()}
    # Comparisons and rehearsals start a throwaway server; their own tests switch them on.
    slow = {"HULEEDU_DRIFT": "false", "HULEEDU_REHEARSAL": "false"}
    return variables | {"HULEEDU_ENVIRONMENT": environment, **slow}


def problems(ran: Ran, service: str = "alpha") -> list[dict[str, str]]:
    """Return the problems of a service."""
    (found,) = [row["problems"] for row in ran.json["services"] if row["service"] == service]
    return list(found)


@contextmanager
def new_production(
    services: Sequence[str] = SERVICES, password: str = PASSWORD, *, has_standby: bool = True
) -> Iterator[Production]:
    """Make a monorepo with a production at head, tagged as such.

    Args:
        has_standby: Whether `standby` runs. It replays each database that a test creates.
    """
    with new_monorepo(services) as monorepo:
        yield asyncio.run(_built(monorepo, password, has_standby=has_standby))


@contextmanager
def bouncer(production: Production, mode: str) -> Iterator[int]:
    """Start a PgBouncer for `main`, with its own certificate; return its port."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if not program:
        pytest.skip("there is no pgbouncer on this machine")
    (port,) = free_ports(1)
    directory = production.monorepo.root.parent / f"bouncer-{mode}"
    directory.mkdir()
    production.authority.issue("localhost", directory)
    users = directory / "users"
    users.write_text(f'"{USER}" "{production.password}"\n')
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        BOUNCER.format(server=production.main.port, port=port, directory=directory, mode=mode)
    )
    _give(directory, users, configuration)
    running = process.spawn_server(
        [program, configuration],
        cwd=directory,
        environment={},
        log=directory / "log",
        account=server_account(),
    )
    try:
        wait_until(lambda: is_listening("127.0.0.1", port))
        yield port
    finally:
        running.terminate()
        running.wait()
        shutil.rmtree(directory)


def admin_url(cluster: Cluster, database: str) -> str:
    """Return the URL with which the administrator gets into a database."""
    return f"postgresql://{ADMIN}:{quote(ADMIN_PASSWORD)}@127.0.0.1:{cluster.port}/{database}"


async def _built(monorepo: Monorepo, password: str, *, has_standby: bool) -> Production:
    servers = EmbeddedServers.create(settings(), monorepo.state, (), reason="the test's")
    template = servers._runnable(servers._template)
    await template.create(ADMIN)
    await template.set_login(ADMIN, Secret(ADMIN_PASSWORD))
    main, plain, standby = (
        servers._runnable(servers._cluster_at(f"{name}_db", port=port))
        for name, port in zip(("main", "plain", "standby"), free_ports(3), strict=True)
    )
    directory = monorepo.root.parent / "authority"
    directory.mkdir()
    production = Production(monorepo, Authority(directory), main, plain, standby, password)
    await main.copy_from(template)
    (main.data / "pg_hba.conf").write_text(ONLY_TLS)
    _add(main, CONFIGURATION)
    production.authority.issue("localhost", main.data)
    await main.start(30)
    await _populate(production)
    await main.stop()
    await plain.copy_from(main)
    (plain.data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    _add(plain, NO_TLS)
    running = [main, plain]
    if has_standby:
        await _make_standby(standby, main)
        running.append(standby)
    for server in running:
        await server.start(30)
    return production


async def _make_standby(standby: Cluster, main: Cluster) -> None:
    """Copy a stopped server to one that will follow it."""
    await standby.copy_from(main)
    _add(
        standby,
        f"primary_conninfo = 'host=127.0.0.1 port={main.port} user={ADMIN} "
        f"password={ADMIN_PASSWORD}'\n",
    )
    (standby.data / "standby.signal").touch()
    _give(standby.data / "standby.signal")


async def _populate(production: Production) -> None:
    """Make the role and the databases, and have Alembic bring them to head."""
    server = await connect(admin_url(production.main, "postgres"))
    await server.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{production.password}'")
    for entry in production.monorepo.services:
        database = f"huleedu_{entry['name']}"
        await server.execute(f"CREATE DATABASE {database}")
        await write_tag(server, database, EnvironmentTag(environment="production"))
        inside = await connect(production.admin(database))
        await inside.execute(f"GRANT CREATE ON SCHEMA public TO {USER}")
        await inside.close()
    await server.close()
    app = app_of(production.monorepo, **production.variables)
    urls = app.urls(app.registry.services)
    with forked_scripts():
        await asyncio.gather(
            *(migrate(s, urls[s.name].url, app.settings) for s in app.registry.services)
        )


def _add(cluster: Cluster, text: str) -> None:
    with (cluster.data / "postgresql.conf").open("a") as file:
        file.write(text)


def _give(*paths: Path) -> None:
    """Give files to the account of the servers, if that is not the current one."""
    if account := server_account():
        for path in paths:
            os.chown(path, account.uid, account.gid)
