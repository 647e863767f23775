"""Upgrades and downgrades revisions one after the other in one run of Alembic, as instructed.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

UPGRADE, DOWNGRADE = "upgrade", "downgrade"
PREPARED = "huleedu_fingerprint"
PER_MIGRATION = "transaction_per_migration"


class Walk:
    """The steps of one run, instead of those that the command of Alembic would run.

    Each step has a transaction of its own, as if each were a run of its own. `env.py` is run once.
    The run ends early if the fingerprint after a step is not equal to that after the same step, or
    before its opposite: the steps behind it would begin from a wrong schema.

    Args:
        steps: The steps, each a direction, a revision, and whether the fingerprint is computed
            after it.
        fingerprint: A query that returns a digest of the schema; an empty string to compute none.
        tell: Writes an event.
    """

    def __init__(self, steps: list[list[Any]], fingerprint: str, tell: Callable[..., None]) -> None:
        self._steps = steps
        self._query = fingerprint
        self._tell = tell
        self._is_prepared = False

    def configure(self, options: dict[str, Any]) -> None:
        """Change the options of `context.configure`, and tell what `env.py` has set."""
        self._tell("transactions", per_revision=bool(options.get(PER_MIGRATION)))
        options[PER_MIGRATION] = True

    def steps(self, context: Any) -> Iterator[Any]:
        """Yield the steps of Alembic."""
        from alembic.runtime.migration import MigrationStep

        script = context.script
        known: dict[tuple[str, str], str] = {}
        now = self._fingerprint(context)
        for direction, name, is_compared in self._steps:
            revision = script.get_revision(name)
            if now:
                known.setdefault((_opposite(direction), name), now)
            make: Any = (
                MigrationStep.upgrade_from_script
                if direction == UPGRADE
                else MigrationStep.downgrade_from_script
            )
            yield make(script.revision_map, revision)
            now = self._fingerprint(context) if is_compared else ""
            is_equal = not is_compared or known.setdefault((direction, name), now) == now
            self._tell("stepped", revision=name, direction=direction, is_equal=is_equal)
            if not is_equal:
                return

    def _fingerprint(self, context: Any) -> str:
        if not self._query:
            return ""
        connection = context.connection
        driver = connection.connection.dbapi_connection
        if connection.in_transaction() or getattr(driver, "autocommit", False):
            return _value_of(driver, self._query)
        if not self._is_prepared:
            cursor = driver.cursor()
            cursor.execute(f"PREPARE {PREPARED} AS {self._query}")
            cursor.close()
            # It outlives its transaction.
            self._is_prepared = True
        try:
            found = _value_of(driver, f"EXECUTE {PREPARED}")
        except Exception:
            # A revision has deallocated it.
            driver.rollback()
            found = _value_of(driver, self._query)
        driver.rollback()
        return found


def _opposite(direction: str) -> str:
    return DOWNGRADE if direction == UPGRADE else UPGRADE


def _value_of(driver: Any, query: str) -> str:
    """Return the only value of a query's result, whose row may be a tuple or a dictionary."""
    cursor = driver.cursor()
    try:
        cursor.execute(query)
        row = cursor.fetchone()
    finally:
        cursor.close()
    return str(next(iter(row.values() if hasattr(row, "values") else row)))
