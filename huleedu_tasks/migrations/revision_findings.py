"""The findings in one revision: what it did, what its statements say, and what its file allows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from huleedu_tasks.migrations import hazard_rules as rules
from huleedu_tasks.migrations.functions import UPGRADE, line_of
from huleedu_tasks.migrations.hazards import find_hazards, without_comments
from huleedu_tasks.migrations.observed_hazards import HeldLock, find_observed_hazards
from huleedu_tasks.migrations.observed_statements import ObservedRevision
from huleedu_tasks.migrations.revisions import Revision
from huleedu_tasks.migrations.squawk import judge_findings
from huleedu_tasks.migrations.suppressions import suppress
from huleedu_tasks.postgres.inspection import Relation
from huleedu_tasks.report import Kind, Level, Problem

# PostgreSQL has executed the SQL, and said what it locks and destroys.
_ANSWERED_KINDS = (Kind.DESTROYS, Kind.LOCKS)
_ANSWERED_RULES = tuple(
    f"{rules.SQUAWK_PREFIX}{name}"
    for name in ("ban-concurrent-index-creation-in-transaction", "syntax-error")
)


def find_in_revision(
    observed: ObservedRevision,
    revision: Revision,
    relations: Mapping[str, Relation],
    linted: Iterable[Problem] = (),
    held: Mapping[str, HeldLock] = MappingProxyType({}),
) -> tuple[Problem, ...]:
    """Return the findings in a revision, most severe first, each with its line.

    What a statement did counts more than what its text says: a lock, a rewrite or a loss is
    reported only if PostgreSQL reported it. What the revision file allows is information.

    Args:
        relations: As for `find_observed_hazards`.
        linted: What squawk finds in the SQL of the revision.
        held: As for `find_observed_hazards`.
    """
    found = [
        *find_observed_hazards(observed, relations, held),
        *_stated(observed, relations),
        *_linted(observed, linted, relations),
    ]
    start = line_of(revision, UPGRADE)
    placed = [replace(problem, line=problem.line or start) for problem in _without_repeated(found)]
    judged = suppress(placed, revision.path, is_complete=not observed.failure)
    levels = list(Level)
    return tuple(sorted(judged, key=lambda one: (levels.index(one.level), one.line or 0)))


def sql_of(observed: ObservedRevision) -> str:
    """Return the statements of a revision that define something, as squawk reads them."""
    statements = (without_comments(one.sql).rstrip(";") for one in observed.statements)
    return "".join(f"{sql};\n" for sql in statements if sql and not _has_parameters(sql))


def _stated(observed: ObservedRevision, relations: Mapping[str, Relation]) -> Iterator[Problem]:
    """Yield what only the text of a statement shows, because the tables are empty."""
    known = dict(relations)
    for statement in observed.statements:
        for renamed in statement.renamed:
            if renamed.name in relations:
                known[renamed.new_name] = relations[renamed.name]
        for problem in find_hazards(statement.sql, known):
            if problem.code in rules.NOT_OBSERVED:
                rule = rules.RULES[problem.code]
                found = rule.problem(problem.cause)
                yield replace(found, statement=problem.statement, line=statement.line)


def _linted(
    observed: ObservedRevision, linted: Iterable[Problem], relations: Mapping[str, Relation]
) -> Iterator[Problem]:
    """Yield what squawk finds besides locks and losses, which were observed."""
    lines = {without_comments(one.sql).rstrip(";"): one.line for one in observed.statements}
    for problem in judge_findings(linted, relations):
        if problem.kind not in _ANSWERED_KINDS and problem.code not in _ANSWERED_RULES:
            level = Level.INFO if problem.kind is Kind.STYLE else problem.level
            line = lines.get(problem.statement.rstrip(";"))
            yield replace(problem, level=level, line=line)


def _without_repeated(found: Sequence[Problem]) -> Iterator[Problem]:
    """Yield the first finding of each rule about a statement."""
    seen: set[tuple[str, str, int | None, str]] = set()
    deleting = {
        (one.statement, one.line) for one in found if one.code == rules.DELETES_ALL_ROWS.name
    }
    for problem in found:
        place = problem.statement, problem.line
        if problem.code == rules.UPDATES_ALL_ROWS.name and place in deleting:
            continue
        # Of one statement, several tables or objects may be lost.
        cause = "" if problem.code in rules.NOT_OBSERVED else problem.cause
        key = (problem.code, *place, cause)
        if key not in seen:
            seen.add(key)
            yield problem


def _has_parameters(sql: str) -> bool:
    first = sql.split(maxsplit=1)[0].upper()
    return first in ("DELETE", "INSERT", "MERGE", "SELECT", "UPDATE", "WITH")
