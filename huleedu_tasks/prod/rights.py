"""Check the rights of a role for the pending revisions, with `env.py`'s own role and schemas."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.migrations.required_rights import find_missing_rights, find_unwritable, needs_of
from huleedu_tasks.migrations.results import ReportedTables
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.postgres.inspection import Facts, Rights, read_rights, read_search_path
from huleedu_tasks.prod.problems import Validated, role_problems
from huleedu_tasks.prod.sql_rendering import approval_of
from huleedu_tasks.prod.target import Target, reach
from huleedu_tasks.report import Level, Problem


async def judge_rights(validated: Validated, settings: Settings, root: Path) -> Validated:
    """Return a validated target with its role's rights checked against the pending revisions.

    If nothing is pending, the role must have rights in the schemas of the version tables. If the
    SQL cannot be rendered, a missing right is a warning.

    Args:
        validated: The target; returned unchanged if its facts or revisions are not known.
        root: The root of the monorepo.
    """
    target, facts, current = validated.target, validated.facts, validated.revisions
    history = target.history
    if facts is None or not isinstance(history, History) or not isinstance(current, tuple):
        return validated
    pending = history.pending(current)
    usual = tuple(role_problems(target, facts))
    if pending is None or not (pending or usual):
        return validated
    try:
        if not pending:
            found = tuple(role_problems(target, await _facts_of_env_py(target, facts)))
        else:
            rendering, reported = await asyncio.gather(
                approval_of(target, settings, root, identity=facts.identity, current=current),
                _ask_tables(target, facts),
            )
            validated = replace(validated, rendering=rendering, has_connected=reported is not None)
            found = await _for_plan(target, facts, current, rendering[0].sql, reported)
    except HuleEduError:
        # A wrong connection or a failing env.py is reported by the next steps.
        return validated
    others = [problem for problem in validated.problems if problem not in usual]
    return replace(validated, problems=(*others, *found))


async def _for_plan(
    target: Target,
    facts: Facts,
    current: tuple[str, ...],
    sql: Mapping[str, str | None],
    reported: ReportedTables | None,
) -> tuple[Problem, ...]:
    needs = needs_of(sql)
    rights = await _rights(target, reported, needs.schemas)
    found: list[Problem] = []
    for table in reported.tables if reported else ():
        place = table.schema or ""
        if rights.relation(place, table.name) is None:
            needs.create_in(place, "")
        found += find_unwritable((place, table.name), rights, current)
    found += find_missing_rights(needs, rights)
    if not needs.is_known:
        found += role_problems(target, _facts_at(facts, rights, _usual_schemas(rights, reported)))
    if needs.is_known and reported:
        return tuple(found)
    return tuple(replace(problem, level=Level.WARNING) for problem in found)


async def _facts_of_env_py(target: Target, facts: Facts) -> Facts:
    """Return the facts for the role and the schemas that env.py uses."""
    reported = await _ask_tables(target, facts)
    rights = await _rights(target, reported, ())
    return _facts_at(facts, rights, _usual_schemas(rights, reported))


async def _ask_tables(target: Target, facts: Facts) -> ReportedTables | None:
    """Return the role, search path and version tables that env.py uses; `None` if not known."""
    try:
        reported = await target.histories.ask_tables(
            target.service, target.url, facts.identity.place
        )
    except HuleEduError:
        return None
    return reported if reported.role else None


async def _rights(
    target: Target, reported: ReportedTables | None, schemas: Collection[str]
) -> Rights:
    """Return the rights of the role that env.py sets; those of the login if it sets none."""
    async with reach(target) as opened:
        return await read_rights(
            opened,
            role=reported.role if reported else "",
            search_path=reported.search_path if reported else await read_search_path(opened),
            schemas={*schemas, *_schemas_of(reported.tables if reported else ())},
        )


def _usual_schemas(rights: Rights, reported: ReportedTables | None) -> set[str]:
    """Return the schemas of the version tables, and the first one of the search path."""
    return {*_schemas_of(reported.tables if reported else ()), *rights.search_path[:1]}


def _schemas_of(tables: Sequence[VersionTable]) -> set[str]:
    return {table.schema for table in tables if table.schema}


def _facts_at(facts: Facts, rights: Rights, usual_schemas: set[str]) -> Facts:
    own = {schema for schema in usual_schemas if rights.may_create_in.get(schema)}
    return replace(
        facts,
        may_create=bool(own),
        schema=facts.schema if own else next(iter(rights.search_path), ""),
        not_owned=tuple(
            sorted(
                relation.shown
                for (schema, _), relation in rights.relations.items()
                if schema in (own or usual_schemas)
                and not relation.is_owned
                and relation.shown in facts.not_owned
            )
        ),
    )
