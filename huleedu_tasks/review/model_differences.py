"""How the models of a service differ from its history.

Autogenerate is asked first. What it does not see is found by a comparison of the history's database
with one whose tables were created from the models: what the models state, the history must have.
"""

import re
from collections import Counter
from collections.abc import Iterator

from huleedu_tasks.migrations.model_comparison import Compared
from huleedu_tasks.postgres.model_objects import ModelObject
from huleedu_tasks.report import Level, Problem

CODE = "models-differ"
_WRITE = "Write the missing revision: `invoke db.revision --service {service} -m TEXT`."
_BY_HAND = (
    "Autogenerate does not see it: `invoke db.revision --service {service} --empty -m TEXT` writes "
    "a revision for it by hand."
)
_LABEL = re.compile(r"'(?:[^']|'')*'")
# Two ways to number rows, and two words for the current time.
_IDENTITY = re.compile(r" GENERATED (ALWAYS|BY DEFAULT) AS IDENTITY")
_SEQUENCE = re.compile(r"nextval\(.*\)")
_NOW = re.compile(r"\bCURRENT_TIMESTAMP\b", re.IGNORECASE)


def model_problems(service: str, compared: Compared) -> Iterator[Problem]:
    """Yield a problem for each difference between models and history.

    Args:
        service: The name of the service, for the remedies.
    """
    if count := len(compared.operations):
        yield Problem(
            level=Level.ERROR,
            cause="the models and the history differ; autogenerate would write "
            f"{count} operation{'s' if count > 1 else ''}",
            remedy=_WRITE.format(service=service),
            code=CODE,
            statement="\n".join(compared.operations),
        )
    if compared.models is None:
        yield Problem(
            level=Level.INFO,
            cause="what autogenerate does not see was not compared, because the tables of the "
            f"models could not be created: {compared.problem}",
            code="models-not-compared",
        )
        return
    for difference in _unseen(compared):
        yield Problem(
            level=Level.ERROR,
            cause=f"the models and the history differ: {difference}",
            remedy=_BY_HAND.format(service=service),
            code=CODE,
        )


def _unseen(compared: Compared) -> Iterator[str]:
    """Yield each difference that autogenerate does not see, as a clause."""
    models, history = _by_kind(compared.models or frozenset()), _by_kind(compared.history)
    tables = {o.table for o in compared.models or ()} & {o.table for o in compared.history}
    seen = " ".join(compared.operations)
    yield from _enums(models.get("enum", []), history.get("enum", []))
    columns = history.get("column", [])
    known = {(o.table, o.name) for o in columns}
    numbered = {(o.table, o.name) for o in columns if _IDENTITY.search(o.definition)}
    for kind in ("column", "default"):
        there = {(o.table, o.name): o.definition for o in history.get(kind, [])}
        for stated in sorted(models.get(kind, [])):
            place = (stated.table, stated.name)
            if place not in known or _is_mentioned(stated, seen):
                continue
            has = there.get(place) or "none"
            is_numbered = kind == "default" and place in numbered
            if not is_numbered and _normal(stated.definition) != _normal(has):
                what = "column" if kind == "column" else "the default of column"
                yield (
                    f"{what} {stated.table}.{stated.name} is {stated.definition} in the models, "
                    f"and {has} in the history"
                )
    for kind in ("constraint", "index"):
        has_them = Counter((o.table, o.definition) for o in history.get(kind, []))
        for stated in sorted(models.get(kind, [])):
            is_known = has_them[stated.table, stated.definition] > 0
            is_seen = f"'{stated.table}'" in seen and not stated.definition.startswith("CHECK")
            if stated.table in tables and not is_known and not is_seen:
                yield f"{kind} {stated.definition} of table {stated.table} is not in the history"


def _enums(models: list[ModelObject], history: list[ModelObject]) -> Iterator[str]:
    there = {enum.table: enum.definition for enum in history}
    for enum in sorted(models):
        if enum.table not in there:
            continue
        stated, has = (_LABEL.findall(text) for text in (enum.definition, there[enum.table]))
        if missing := [label for label in stated if label not in has]:
            yield f"the history does not add {', '.join(missing)} to enum {enum.table}"
        if extra := [label for label in has if label not in stated]:
            yield f"enum {enum.table} has {', '.join(extra)} in the history only"


def _by_kind(objects: frozenset[ModelObject]) -> dict[str, list[ModelObject]]:
    found: dict[str, list[ModelObject]] = {}
    for found_object in objects:
        found.setdefault(found_object.kind, []).append(found_object)
    return found


def _is_mentioned(stated: ModelObject, operations: str) -> bool:
    return f"'{stated.table}'" in operations and f"'{stated.name}'" in operations


def _normal(definition: str) -> str:
    return _NOW.sub("now()", _SEQUENCE.sub("nextval()", _IDENTITY.sub("", definition)))
