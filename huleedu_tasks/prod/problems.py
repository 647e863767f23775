"""Find the problems that could make a migration of staging or production fail; read-only."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.config.hosts import edge_of
from huleedu_tasks.errors import HuleEduError, ServerError
from huleedu_tasks.migrations.edits import edits_since_applied
from huleedu_tasks.migrations.modules import hint_of
from huleedu_tasks.migrations.results import Rendered
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.postgres.connections import (
    WHITE_SPACE,
    connection,
)
from huleedu_tasks.postgres.databases import EnvironmentTag, literal, parse_tag, quoted, tagged
from huleedu_tasks.postgres.inspection import Facts, Identity, Session, identify, inspect
from huleedu_tasks.prod.approval import Approval
from huleedu_tasks.prod.target import DISABLED, Target, reach, without_white_space
from huleedu_tasks.report import Difference, Level, Problem
from huleedu_tasks.schema.dump import SchemaDump
from huleedu_tasks.shared_databases import same_table, same_tables

if TYPE_CHECKING:
    import asyncpg

OLDEST_VERSION = 14
# A transaction that is open for longer is reported: it may block a migration.
OLD_TRANSACTION_SECONDS = 5.0
FEW_CONNECTIONS = 5
SHOWN_NAMES = 3
VERIFIED, UNVERIFIED, OPEN, SOCKET = "verified", "unverified", "none", "socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The result of validating a target.

    Attributes:
        problems: All problems found; empty if none.
        facts: The state of the server and the database; `None` if the server did not answer.
        revisions: The revisions of the database, or the error that reading them raised.
        rendering: The SQL of the pending revisions; `None` if it was not rendered yet.
        has_connected: Whether `env.py` has connected to the database.
        drift: The drift of the schema; `None` if the schemas were not compared.
        is_migrating: Whether they were not, because another run migrates the database.
        dumped: The schema of the database; `None` if it was not read.
        fingerprint: A digest of the schema that was compared; an empty string if none was.
    """

    target: Target
    problems: tuple[Problem, ...]
    facts: Facts | None = None
    revisions: tuple[str, ...] | HuleEduError = ()
    rendering: tuple[Approval, Rendered] | None = None
    has_connected: bool = False
    drift: tuple[Difference, ...] | None = None
    is_migrating: bool = False
    dumped: SchemaDump | None = None
    fingerprint: str = ""

    @property
    def known_revisions(self) -> tuple[str, ...]:
        """The revisions of the database.

        Raises:
            HuleEduError: If they could not be read.
        """
        if isinstance(self.revisions, HuleEduError):
            raise self.revisions
        return self.revisions

    @property
    def is_known(self) -> bool:
        """Whether the database has revisions of a history that could be read."""
        return self._pending is not None

    @property
    def is_behind(self) -> bool:
        """Whether revisions are known to be pending."""
        return bool(self._pending)

    @property
    def _pending(self) -> int | None:
        if self.facts is None or isinstance(self.revisions, HuleEduError):
            return None
        history = self.target.history
        return None if isinstance(history, HuleEduError) else history.pending(self.revisions)


async def examine(target: Target) -> Validated:
    """Read the state of a database, and return it with all problems found."""
    try:
        async with reach(target) as opened:
            facts = await inspect(
                opened,
                extensions=target.service.extensions,
                old_after=OLD_TRANSACTION_SECONDS,
            )
            revisions = await _revisions_or_problem(target, opened)
    except ServerError as error:
        problems = (
            _error(error.message.rstrip("."), error.hint, error.code),
            *history_problems(target),
        )
        return Validated(target=target, problems=problems)
    problems = (*judge(target, facts, revisions), *await _direct_url_problems(target, facts))
    return Validated(target=target, problems=problems, facts=facts, revisions=revisions)


async def _revisions_or_problem(
    target: Target, opened: "asyncpg.Connection"
) -> tuple[str, ...] | HuleEduError:
    try:
        return await target.read_revisions(opened)
    except HuleEduError as error:
        return error


def judge(
    target: Target, facts: Facts, revisions: tuple[str, ...] | HuleEduError
) -> Iterator[Problem]:
    """Yield the problems in the state of a database.

    Args:
        revisions: The revisions of the database, or the error that reading them raised.
    """
    yield from _transport(target, facts)
    yield from _server(target, facts)
    yield from role_problems(target, facts)
    yield from _extensions(target, facts)
    yield from _tag(target, facts)
    yield from history_problems(target)
    yield from _revisions(target, revisions)
    yield from _edits(target, facts, revisions)
    yield from _locks(target, facts)


def history_problems(target: Target) -> Iterator[Problem]:
    """Yield the problems of a service's revision files."""
    history = target.history
    if isinstance(history, HuleEduError):
        for cause in [str(finding) for finding in history.findings] or [history.message]:
            yield _error(cause, hint_of(target.service, history), history.code)
    elif not history.revisions:
        yield _warning(
            "it has no revision files",
            f"Correct script_location or version_locations in {target.service.alembic_config}.",
        )


def password_problems(target: Target) -> Iterator[Problem]:
    """Yield a warning for white space around a password that was not tried on a server."""
    if edge := edge_of(target.url.password.reveal()):
        variable = target.variable("PASSWORD")
        yield Problem(
            level=Level.WARNING,
            cause=f"the password in {variable} {edge}",
            remedy=without_white_space(variable),
            code=WHITE_SPACE,
        )


def same_database(validated: Sequence[Validated]) -> dict[str, Problem]:
    """Return a problem for each service in the same database as an earlier one, by its name.

    Services with `shared_database` may share one, unless they have a version table in common.
    """
    problems = {}
    seen: dict[Identity, list[Target]] = {}
    for result in validated:
        if result.facts is None:
            continue
        target = result.target
        earlier = seen.setdefault(result.facts.identity, [])
        found = (_in_one_database(other, target) for other in earlier)
        if problem := next(filter(None, found), None):
            problems[target.service.name] = problem
        earlier.append(target)
    return problems


def _in_one_database(earlier: Target, target: Target) -> Problem | None:
    one, other = earlier.service, target.service
    if not (one.shared_database and other.shared_database):
        return _error(
            f"it connects to the same database as {one.name}",
            "Correct the variables or the registry: one database belongs to one service, unless "
            "both state 'shared_database'.",
            "database-shared",
        )
    tables = [t.histories.known_version_tables(t.service, t.url) for t in (earlier, target)]
    if common := same_tables(*tables):
        refusal = same_table(one, other, common)
        return _error(refusal.message.rstrip("."), refusal.hint, refusal.code)
    return None


def tls_state(target: Target, facts: Facts) -> str:
    """Return the state of a connection's TLS: verified, unverified, none or socket."""
    tls = target.url.tls
    if target.url.is_socket:
        return SOCKET
    if not facts.encrypted:
        return OPEN
    # In libpq a root certificate makes `require` the same as `verify-ca`.
    verifies = tls.get("sslmode", "").startswith("verify") or (
        tls.get("sslmode") == "require" and "sslrootcert" in tls
    )
    return VERIFIED if verifies else UNVERIFIED


async def _direct_url_problems(target: Target, facts: Facts) -> list[Problem]:
    """Return a problem unless the direct URL and the service's own URL reach one database."""
    if target.usual is None:
        return []
    source = target.resolved.source
    try:
        async with connection(target.usual.url) as opened:
            identity = await identify(opened)
    except ServerError as error:
        return [
            _warning(
                f"{source} was not compared with the service's own URL: "
                f"{error.message.rstrip('.')}",
                f"Compare {source} with the URL the service runs with.",
            )
        ]
    if identity == facts.identity:
        return []
    return [
        _error(
            f"{source} connects to a different database than the service's own URL, "
            f"{target.usual.url}",
            f"Correct {source}: the service does not use the database that is migrated there.",
            "direct-url-mismatch",
        )
    ]


def _transport(target: Target, facts: Facts) -> Iterator[Problem]:
    state = tls_state(target, facts)
    disabled = target.open_allowed or target.url.tls.get("sslmode") == DISABLED
    if state == OPEN and not disabled:
        yield _error(
            "the connection is not encrypted",
            f"To encrypt it, {target.tls_mode('verify-full')}; if the network is trusted, "
            f"{target.tls_mode(DISABLED)}.",
            "tls-off",
        )
    if state == UNVERIFIED:
        certificates = "" if target.resolved.is_override else f" and {target.variables}_SSLROOTCERT"
        yield _warning(
            "TLS is on, but the server certificate is not verified",
            f"To verify it, {target.tls_mode('verify-full')}{certificates}.",
        )
    if facts.through_pooler:
        yield _error(
            "the connection goes through a pooler, where locks and session settings are not "
            "effective",
            f"Set {target.service.direct_url_variable} to the URL of the server itself.",
            "lock-not-effective",
        )


def _server(target: Target, facts: Facts) -> Iterator[Problem]:
    if facts.version < OLDEST_VERSION:
        yield _warning(
            f"PostgreSQL {facts.version} is older than {OLDEST_VERSION}",
            "Upgrade it: PostgreSQL publishes no more fixes for this version.",
        )
    if facts.in_recovery:
        yield _error(
            "the server is a standby, which is read-only",
            f"Set {target.variable('HOST')} to the primary server.",
            "server-is-standby",
        )
    if facts.read_only:
        yield _error(
            "transactions are read-only by default",
            "Turn off default_transaction_read_only of the server, the database or the role.",
            "server-read-only",
        )
    if facts.free_connections < FEW_CONNECTIONS:
        yield _warning(
            f"only {max(facts.free_connections, 0)} more connections are allowed",
            "See who holds them: SELECT * FROM pg_stat_activity; the limit is the server's, the "
            "database's or the role's.",
        )


def role_problems(target: Target, facts: Facts) -> Iterator[Problem]:
    """Yield the rights that the role lacks in its usual schema."""
    user = target.url.user
    if not facts.may_create:
        schema = quoted(facts.schema or "public")
        where = f"the schema {schema}" if facts.schema else "any schema of its search path"
        yield _error(
            f"{user!r} may not create tables in {where}",
            f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {quoted(user)}.",
            "missing-rights",
        )
    if facts.not_owned:
        yield _error(
            f"{user!r} does not own {_first_names(facts.not_owned)}, and only the owner may alter "
            "them",
            f"ALTER TABLE {facts.not_owned[0]} OWNER TO {quoted(user)}, or GRANT the owning role.",
            "missing-rights",
        )


def _extensions(target: Target, facts: Facts) -> Iterator[Problem]:
    user = target.url.user
    for name in facts.extensions_missing:
        yield _error(
            f"the server does not have the extension {name!r}",
            "Install it on the server, or correct 'extensions' in the registry.",
            "extension-missing",
        )
    for name in facts.extensions_forbidden:
        yield _error(
            f"{user!r} may not create the extension {name!r}",
            f"Have an administrator create it once: CREATE EXTENSION {quoted(name)}.",
            "extension-missing",
        )


def _tag(target: Target, facts: Facts) -> Iterator[Problem]:
    try:
        tag = parse_tag(target.url.database, facts.comment)
    except ServerError as error:
        yield _error(f"{error.message.rstrip('.')}: {facts.comment!r}", error.hint, error.code)
        return
    if tag is None and facts.may_tag:
        yield _info(
            f"has no environment tag yet; the first migration sets it to {target.environment}"
        )
    elif tag is None:
        comment = literal(tagged(facts.comment, EnvironmentTag(environment=target.environment)))
        yield _warning(
            f"has no environment tag, and {target.url.user!r} may not set it: it does not own the "
            "database",
            f"Have its owner run: COMMENT ON DATABASE {quoted(target.url.database)} IS {comment}.",
        )
    elif tag.environment != target.environment:
        yield _error(
            f"is tagged as {tag.environment}, not as {target.environment}",
            f"Compare {target.variable('HOST')} with the databases; correct a wrong tag with "
            "COMMENT ON DATABASE.",
            "environment-tag-mismatch",
        )


def _revisions(target: Target, revisions: tuple[str, ...] | HuleEduError) -> Iterator[Problem]:
    if isinstance(revisions, HuleEduError):
        hint = hint_of(target.service, revisions)
        yield _error(revisions.message.rstrip("."), hint, revisions.code)
        return
    if isinstance(target.history, HuleEduError):
        return
    pending = target.history.pending(revisions)
    if pending is None:
        yield _error(
            f"the database is at {named(revisions)}, which is not in the revision files",
            "Deploy from the branch that migrated it last.",
            "revision-unknown",
        )
    elif pending:
        yield _info("1 revision is pending" if pending == 1 else f"{pending} revisions are pending")


def _edits(
    target: Target, facts: Facts, revisions: tuple[str, ...] | HuleEduError
) -> Iterator[Problem]:
    history, tag = target.history, _tag_or_none(target, facts)
    if isinstance(history, HuleEduError) or isinstance(revisions, HuleEduError) or not tag:
        return
    for edit in edits_since_applied(tag, target.service.name, history, revisions):
        yield Problem(
            level=Level.WARNING,
            cause=edit.described(target.histories.settings.root),
            remedy="Restore the file, and put the change into a new revision.",
            code="revision-edited",
        )


def _tag_or_none(target: Target, facts: Facts) -> EnvironmentTag | None:
    with suppress(ServerError):
        return parse_tag(target.url.database, facts.comment)
    return None


def _locks(target: Target, facts: Facts) -> Iterator[Problem]:
    if facts.invalid_indexes:
        yield _warning(
            f"invalid indexes, left by an interrupted build: {_first_names(facts.invalid_indexes)}",
            f"DROP INDEX CONCURRENTLY {facts.invalid_indexes[0]}; then create it again.",
        )
    for session in facts.old_sessions:
        yield _prepared_transaction(session) if session.prepared else _long_transaction(session)
    if facts.hidden_sessions:
        yield _info(
            "the server does not show how long the transactions of other roles have been open "
            f"(sessions: {facts.hidden_sessions})",
            f"GRANT pg_read_all_stats TO {quoted(target.url.user)}.",
        )


def _prepared_transaction(session: Session) -> Problem:
    return _warning(
        f"the prepared transaction {session.prepared!r} ({session.who}) has held its locks for "
        f"{session.seconds:.0f} s",
        f"COMMIT PREPARED or ROLLBACK PREPARED '{session.prepared}': nothing else ends it.",
    )


def _long_transaction(session: Session) -> Problem:
    return _warning(
        f"pid {session.pid} ({session.who}) has a transaction open for {session.seconds:.0f} s",
        f"Wait for it, or SELECT pg_terminate_backend({session.pid}).",
    )


def _first_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_NAMES])
    return f"{shown} and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else shown


def _error(cause: str, remedy: str, code: str) -> Problem:
    return Problem(level=Level.ERROR, cause=cause, remedy=remedy, code=code)


def _warning(cause: str, remedy: str) -> Problem:
    return Problem(level=Level.WARNING, cause=cause, remedy=remedy)


def _info(cause: str, remedy: str = "") -> Problem:
    return Problem(level=Level.INFO, cause=cause, remedy=remedy)
