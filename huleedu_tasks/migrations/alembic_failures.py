"""Turns the failure of a run of Alembic into an error with its cause and its hint."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from huleedu_tasks import process
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import HuleEduError, MigrationError, Refused, ServerError
from huleedu_tasks.migrations.alembic_config import option_hint
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.migrations.revisions import History, named
from huleedu_tasks.postgres.databases import parse_tag
from huleedu_tasks.postgres.locks import lock_lost

_TRACEBACK = "Traceback (most recent call last):\n"
# Separators of chained exceptions (Python's traceback module).
_LINK = re.compile(
    r"The above exception was the direct cause of the following exception:"
    r"|During handling of the above exception, another exception occurred:"
)
# PostgreSQL, Appendix A: lock_not_available, query_canceled.
_LOCK_TIMEOUT = "55P03"
_CANCELED = "57014"
# pg_cancel_backend() raises the same code with another message.
_BY_TIMEOUT = "statement timeout"
_SHOWN_STATEMENT = 120
_PARTIAL_HINT = (
    "Check which of its changes are in the database (`invoke prod.validate` names invalid "
    "indexes). Undo them, or make the revision skip them. Then run the same command again."
)
# Names of variables that may contain the address of a database.
_NAMES_DATABASE = re.compile(r"DATABASE|DB|PG|POSTGRES|SQL|DSN|UR[IL]", re.IGNORECASE)


class LockTimeout(MigrationError):
    """A statement timed out while waiting for a lock of another session."""


def failure_of(
    service: Service,
    url: DatabaseUrl,
    done: process.Completed,
    session: Observation,
    hint: str,
) -> HuleEduError:
    """Return the error of a run that failed, or that the worker stopped.

    Args:
        done: How the process ended.
        session: The events of the run.
        hint: The hint, if the events and the output suggest no other one.
    """
    events = {str(event["event"]): event for event in session.read_events()}
    was_run = "begun" in events
    if event := events.get("mismatch"):
        return _mismatch(service, url, event, was_run=was_run, output=done.output)
    if "lock lost" in events:
        done_so_far = "no further revision was run" if was_run else "nothing was run"
        return lock_lost(f"{url.database} on {url.address}", done_so_far)
    if changed := events.get("changed"):
        return _changed_input(str(changed["path"]), was_run=was_run)
    failed = events.get("failed", {})
    found = _timeout(failed) or _failure(service, done, failed, hint)
    hint = _PARTIAL_HINT if session.kept else found.hint
    return found.kind(found.cause, code=found.code, hint=hint, output=done.output)


class _Found(NamedTuple):
    """The parts of an error that depend on what failed."""

    cause: str
    hint: str
    code: str
    kind: type[MigrationError] = MigrationError


def _timeout(failed: Mapping[str, Any]) -> _Found | None:
    """Return the error of a statement that timed out; None if none did."""
    state, message = failed.get("sqlstate"), str(failed.get("message"))
    statement = textwrap.shorten(str(failed.get("statement")), _SHOWN_STATEMENT, placeholder=" ...")
    if state == _LOCK_TIMEOUT:
        return _Found(
            cause=f"A statement timed out while waiting for a lock: {statement}",
            hint="Run the same command again when the lock is released, or end its holder with "
            "pg_terminate_backend(pid). HULEEDU_LOCK_TIMEOUT allows more time, but other sessions "
            "then wait behind this statement.",
            code="lock-timeout",
            kind=LockTimeout,
        )
    if state == _CANCELED and _BY_TIMEOUT in message:
        return _Found(
            cause=f"A statement exceeded statement_timeout: {statement}",
            hint="Set HULEEDU_STATEMENT_TIMEOUT, or 'statement_timeout' in the registry, to a "
            "longer time.",
            code="statement-timeout",
        )
    return None


def _failure(
    service: Service, done: process.Completed, failed: Mapping[str, Any], hint: str
) -> _Found:
    """Return the error of a revision, or of Alembic outside of revisions."""
    if failed.get("revision"):
        cause = f"Revision {failed['revision']} failed: {failed['message']}"
        return _Found(cause=cause, hint=hint, code="migration-failed")
    # The server's words, as of a commit that failed, without those of the driver.
    said = failed["message"] if failed.get("sqlstate") else cause_in(done.output)
    cause = f"Alembic failed with exit code {done.returncode}: {said}"
    return _Found(cause=cause, hint=option_hint(service, cause) or hint, code="migration-failed")


def require_match(service: Service, url: DatabaseUrl, session: Observation, output: str) -> None:
    """Require that `env.py` connected to no other database while it was only asked.

    Args:
        session: The events of the run.
        output: The output of the process.

    Raises:
        Refused: If it connected to a different database.
    """
    for event in session.read_events():
        if event["event"] == "mismatch":
            raise _mismatch(service, url, event, was_run=False, output=output)


def _mismatch(
    service: Service,
    url: DatabaseUrl,
    event: Mapping[str, Any],
    *,
    was_run: bool,
    output: str,
) -> Refused:
    where = "A revision or env.py" if was_run else "env.py"
    done = "no further revision was run" if was_run else "nothing was run"
    return Refused(
        f"{where} connected to {event['database']} on {event['address']}{_tag_clause(event)}, "
        f"not to {url.database} on {url.address}; {done}.",
        code="target-mismatch",
        hint=option_hint(service, "") or how_to_follow(service, event),
        output=output,
    )


def how_to_follow(service: Service, event: Mapping[str, Any]) -> str:
    """Return which variable named a different database, and what to change."""
    ours = service.alembic_url_variable
    read = [name for name in event["read"] if _NAMES_DATABASE.search(name)]
    led = [name for name in event["led"] if name != ours]
    # One variable with a URL is enough; otherwise several variables name parts of it.
    named = led if event["all_were_read"] else [name for name in led if name in read] or led
    if ours in event["read"] or (event["all_were_read"] and not named):
        return (
            f"env.py read the correct URL in {ours}, but connected to a different "
            f"database. Correct env.py{_from(named)}, or state the difference in the registry."
        )
    if len(named) == 1:
        return (
            f'env.py read {named[0]}, not {ours}. State "url_variable": "{named[0]}" for '
            f'{service.name} in the registry, or "alembic_url_variable" if other services read '
            "it too."
        )
    return (
        f"env.py did not read {ours}; it read {', '.join(named or read) or 'no variable'}. "
        f'State the variable with its URL as "url_variable" for {service.name} in the registry.'
    )


def remedy(before: tuple[str, ...], history: History) -> str:
    """Return a hint for a failure of Alembic."""
    unknown = tuple(revision for revision in before if revision not in history.revisions)
    if unknown:
        return (
            f"The revision files do not contain {named(unknown)}. Check out the branch that has "
            "it, "
            "or rebuild the database with `invoke db.reset` in development."
        )
    return "Correct the cause that the service's output names, and run the command again."


def cause_in(output: str) -> str:
    """Return the exception of a traceback, or the last line of the output.

    For chained exceptions it is the last one, with the first one in brackets. `no output` if the
    output is empty.
    """
    raised: list[str] = []
    for text in _LINK.split(output):
        if text.count(_TRACEBACK) > 1:
            # The last traceback is not related to those before it.
            raised = []
        raised += filter(None, [_exception_in(text)])
    if not raised:
        lines = [line for line in output.splitlines() if line.strip()]
        return (lines[-1:] or ["no output"])[0].strip()
    shown, root = raised[-1], raised[0]
    return shown if root == shown else f"{shown} (caused by {root})"


def _changed_input(path: str, *, was_run: bool) -> Refused:
    done = "no further revision was run" if was_run else "nothing was run"
    return Refused(
        f"{path} was changed after the plan was approved; {done}.",
        code="plan-changed",
        hint="Run `invoke prod.plan` again, and get approval for the new plan.",
    )


def _tag_clause(event: Mapping[str, Any]) -> str:
    """Return a clause with the environment tag of a database; empty if it has none."""
    with suppress(ServerError):
        if tag := parse_tag(event["database"], event["comment"]):
            return f", whose environment tag is {tag.environment}"
    return ""


def _from(variables: Sequence[str]) -> str:
    return f" ({', '.join(variables)})" if variables else ""


def _exception_in(text: str) -> str:
    """Return the first line of a traceback's exception; an empty string without a traceback."""
    _, traceback, rest = text.rpartition(_TRACEBACK)
    # Frames are indented; exceptions of SQLAlchemy have several lines.
    lines = (line.strip() for line in rest.splitlines() if line and not line.startswith(" "))
    return next(filter(None, lines), "") if traceback else ""
