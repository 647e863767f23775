"""Finds the rights that a plan's SQL requires, and those that the role does not have.

Only certain findings are reported: a statement that cannot be parsed requires no rights, and
statements after a change of the role or the search path are not analysed.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from huleedu_tasks.migrations.hazards import LIBRARY, parsed_statements
from huleedu_tasks.postgres.databases import quoted
from huleedu_tasks.postgres.inspection import Rights
from huleedu_tasks.report import Level, Problem

if TYPE_CHECKING:
    from sqlglot import exp

CODE = "missing-rights"
# Statements that change the role or the search path.
_CHANGES_SESSION = re.compile(
    r"^\s*(SET|RESET|DISCARD)\b[^;]*\b(ROLE|AUTHORIZATION|SEARCH_PATH|ALL)\b"
    r"|\bset_config\s*\(\s*'(role|session_authorization|search_path)'",
    re.IGNORECASE | re.MULTILINE,
)
_IN_A_SCHEMA = ("TABLE", "VIEW", "SEQUENCE", "FUNCTION", "PROCEDURE", "TYPE")
_OWNED = ("TABLE", "VIEW", "INDEX", "SEQUENCE")
# A schema, an empty string for the first one of the search path, and a name in it.
Name = tuple[str, str]


@dataclass(slots=True, kw_only=True)
class Needs:
    """The rights that the SQL of revisions requires, each with the first revision that does.

    Attributes:
        creates_in: The schemas in which objects are created.
        creates_schemas: The revision that creates a schema; an empty string if none does.
        alters: Altered relations, which requires the rights of their owner.
        drops: Dropped relations, which requires the rights of their owner or their schema's owner.
        is_known: Whether all statements were analysed.
    """

    creates_in: dict[str, str] = field(default_factory=dict)
    creates_schemas: str = ""
    alters: dict[Name, str] = field(default_factory=dict)
    drops: dict[Name, str] = field(default_factory=dict)
    is_known: bool = True
    _made: set[Name] = field(default_factory=set)
    _made_schemas: set[str] = field(default_factory=set)

    @property
    def schemas(self) -> set[str]:
        """The schemas that the statements name."""
        named = {schema for schema, _ in (*self.alters, *self.drops)}
        return {*self.creates_in, *named} - {""}

    def add(self, revision: str, statement: "exp.Expr") -> None:
        """Add the rights that a statement of a revision requires."""
        from sqlglot import exp

        if isinstance(statement, exp.Create):
            self._add_create(revision, statement)
        elif isinstance(statement, exp.Alter) and statement.kind in _OWNED:
            self._add_owned(self.alters, revision, statement.this)
        elif isinstance(statement, exp.Drop) and statement.args["kind"] in _OWNED:
            for table in statement.args["tables"]:
                self._add_owned(self.drops, revision, table)

    def create_in(self, schema: str, revision: str) -> None:
        """Add that a revision creates an object in a schema."""
        if schema not in self._made_schemas:
            self.creates_in.setdefault(schema, revision)

    def _add_create(self, revision: str, statement: "exp.Create") -> None:
        from sqlglot import exp

        table = statement.find(exp.Table)
        if table is None or statement.find(exp.TemporaryProperty):
            return
        schema, name = _name_of(table)
        if statement.kind == "SCHEMA":
            self.creates_schemas = self.creates_schemas or revision
            self._made_schemas.add(schema or name)
        elif statement.kind == "INDEX":
            self._add_owned(self.alters, revision, table)
        elif statement.kind in _IN_A_SCHEMA:
            self.create_in(schema, revision)
            self._made.add((schema, name))

    def _add_owned(self, names: dict[Name, str], revision: str, table: "exp.Expr") -> None:
        from sqlglot import exp

        if isinstance(table, exp.Table):
            name = _name_of(table)
            if name not in self._made and name[0] not in self._made_schemas:
                names.setdefault(name, revision)


def needs_of(sql: Mapping[str, str | None]) -> Needs:
    """Return the rights that the SQL of revisions requires.

    Args:
        sql: The SQL by revision, in the order they run; None if a revision has no offline SQL.
    """
    # sqlglot logs a warning for each statement that it does not parse.
    logging.getLogger(LIBRARY).setLevel(logging.ERROR)
    needs = Needs()
    for revision, text in sql.items():
        if text is None:
            needs.is_known = False
            return needs
        for words, statement in parsed_statements(text):
            if _CHANGES_SESSION.search(words):
                needs.is_known = False
                return needs
            if statement is not None:
                needs.add(revision, statement)
    return needs


def find_missing_rights(needs: Needs, rights: Rights) -> Iterator[Problem]:
    """Find rights that a plan requires and the role does not have.

    Args:
        needs: The rights that the plan requires.
        rights: The rights of the role.
    """
    role = quoted(rights.role)
    for schema, revision in needs.creates_in.items():
        place = schema or next(iter(rights.search_path), "")
        if not place:
            yield _problem(
                f"{rights.role!r} may not create tables in any schema of its search path, which "
                f"{_by(revision)} requires",
                f"Create a schema for it, or GRANT USAGE, CREATE ON SCHEMA public TO {role}.",
            )
        # A missing schema is not a missing right.
        elif not rights.may_create_in.get(place, True):
            yield _problem(
                f"{rights.role!r} may not create in the schema {quoted(place)}, which "
                f"{_by(revision)} requires",
                f"GRANT USAGE, CREATE ON SCHEMA {quoted(place)} TO {role}.",
            )
    if needs.creates_schemas and not rights.may_create_schemas:
        yield _problem(
            f"{rights.role!r} may not create schemas, which revision {needs.creates_schemas} "
            "requires",
            f"GRANT CREATE ON DATABASE {quoted(rights.database)} TO {role}, or ask an "
            "administrator "
            "to create the schema.",
        )
    yield from _not_owned(needs.alters, rights, "alters", of_schema=False)
    yield from _not_owned(needs.drops, rights, "drops", of_schema=True)


def find_unwritable(
    table: tuple[str, str], rights: Rights, current: tuple[str, ...]
) -> Iterator[Problem]:
    """Yield a problem if a role may not write to an existing version table.

    Args:
        table: The schema and name of the version table.
        rights: The rights of the role.
        current: The recorded revisions. Alembic inserts the first one and updates it later.
    """
    relation = rights.relation(*table)
    if relation and not (relation.may_update if current else relation.may_insert):
        yield _problem(
            f"{rights.role!r} may not record revisions in {relation.shown}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {relation.shown} TO {quoted(rights.role)}.",
        )


def _not_owned(
    names: Mapping[Name, str], rights: Rights, verb: str, *, of_schema: bool
) -> Iterator[Problem]:
    for (schema, name), revision in names.items():
        relation = rights.relation(schema, name)
        if relation is None or relation.is_owned or (of_schema and relation.is_schema_owned):
            continue
        yield _problem(
            f"{rights.role!r} does not own {relation.shown}, which revision {revision} {verb}",
            f"ALTER TABLE {relation.shown} OWNER TO {quoted(rights.role)}, or GRANT the owning "
            "role.",
        )


def _by(revision: str) -> str:
    return f"revision {revision}" if revision else "Alembic's version table"


def _problem(cause: str, remedy: str) -> Problem:
    return Problem(level=Level.ERROR, cause=cause, remedy=remedy, code=CODE)


def _name_of(table: "exp.Table") -> Name:
    return _folded(table.args.get("db")), _folded(table.args.get("this"))


def _folded(identifier: "exp.Expr | None") -> str:
    """Return an identifier as PostgreSQL folds it: in lower case unless it was quoted."""
    if identifier is None:
        return ""
    return identifier.name if identifier.args.get("quoted") else identifier.name.lower()
