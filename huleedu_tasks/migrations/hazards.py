"""Finds statements of a revision that lock or destroy data, and suggests safer ones.

The findings depend on the current tables: a statement that is harmless on an empty table, or on one
that the same revisions create, may block a service on a full one.
"""

import logging
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from huleedu_tasks.migrations import hazard_rules as rules
from huleedu_tasks.migrations.hazard_rules import Rule
from huleedu_tasks.postgres.inspection import Relation
from huleedu_tasks.report import Kind, Level, Problem

if TYPE_CHECKING:
    from sqlglot import exp

LIBRARY = "sqlglot"
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_UNIT = 1024
_SHOWN = 60
# Statements that sqlglot does not parse and keeps as a string.
_ALTERS_TABLE = re.compile(r"TABLE\b", re.IGNORECASE)
_ALTERED_TABLE = re.compile(
    r"\s*ALTER TABLE (?:IF EXISTS )?(?:ONLY )?((?:\"[^\"]+\"|[\w.])+)", re.IGNORECASE
)
_HARMLESS = re.compile(r"\b(VALIDATE CONSTRAINT|USING INDEX)\b", re.IGNORECASE)
_HEAVY = ("CLUSTER", "DROP", "LOCK", "REASSIGN", "REINDEX", "VACUUM")
_UNNAMED_CHECK = re.compile(r"\bADD CHECK\b", re.IGNORECASE)

_DEPLOY_FIRST = (
    "First deploy code that no longer uses it, and drop it in a later release. Only a backup "
    "restores it."
)
_TWO_NAMES = (
    "Running code uses the old name. Add the new one, keep both filled while the code changes "
    "over, then drop the old one."
)
_READ = "Review it before you apply the revision."
_IN_BATCHES = "Change the rows in batches, outside the migration."
_NOT_VALID = "Add it NOT VALID, then VALIDATE CONSTRAINT in a later transaction."


def find_hazards(sql: str, relations: Mapping[str, Relation]) -> tuple[Problem, ...]:
    """Return the hazards in the SQL of a revision; empty if there are none.

    Args:
        sql: Statements, separated by semicolons.
        relations: The current relations of the database, by `schema.name` and by `name`.
    """
    # sqlglot logs a warning for each statement that it does not parse.
    logging.getLogger(LIBRARY).setLevel(logging.ERROR)
    found = (
        replace(problem, statement=without_comments(statement))
        for statement in statements_of(sql)
        for problem in _judge_sql(statement, relations)
    )
    return tuple(dict.fromkeys(found))


def parsed_statements(sql: str) -> "Iterator[tuple[str, exp.Expr | None]]":
    """Yield each statement with its expression; None if sqlglot cannot parse it."""
    import sqlglot
    from sqlglot.errors import SqlglotError

    for statement in statements_of(sql):
        named = _UNNAMED_CHECK.sub("ADD CONSTRAINT unnamed CHECK", statement)
        try:
            for expression in sqlglot.parse(named, dialect="postgres"):
                if expression:
                    yield statement, expression
        except SqlglotError:
            yield statement, None


def described(relation: Relation) -> str:
    """Return a relation's name with its rows and size, for messages."""
    if relation.size is None:
        return f"{relation.shown!r} (of unknown size)"
    rows = f"about {relation.rows} rows, " if relation.rows else ""
    content = f"{rows}{_bytes(relation.size)}" if relation.size else "empty"
    return f"{relation.shown!r} ({content})"


def statements_of(sql: str) -> Iterator[str]:
    """Split SQL at semicolons, except those in strings and bodies of functions."""
    from sqlglot import tokenize
    from sqlglot.errors import SqlglotError

    try:
        tokens = tokenize(sql, dialect="postgres")
    except SqlglotError:
        yield sql
        return
    begin = 0
    for token in tokens:
        if token.token_type.name == "SEMICOLON":
            yield sql[begin : token.start]
            begin = token.end + 1
    yield sql[begin:]


def without_comments(statement: str) -> str:
    """Return a statement without blank lines and lines of comments."""
    lines = (line.rstrip() for line in statement.splitlines())
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("--")).strip()


def is_in_use(statement: str, relations: Mapping[str, Relation]) -> bool:
    """Whether the first table that a statement names has rows, or is not known.

    A table that is not in the database is created by the same plan.

    Args:
        statement: One statement.
        relations: The current relations of the database, by `schema.name` and by `name`.
    """
    from sqlglot import exp

    # sqlglot keeps some statements as a string, such as DETACH PARTITION.
    named = _ALTERED_TABLE.match(statement)
    parsed = parsed_statements(f"SELECT FROM {named[1]}" if named else statement)
    for _, expression in parsed:
        if expression and (table := expression.find(exp.Table)):
            return any(_filled([table], relations))
    return True


def _judge_sql(statement: str, relations: Mapping[str, Relation]) -> Iterator[Problem]:
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        # sqlglot parses only constraints with names.
        named = _UNNAMED_CHECK.sub("ADD CONSTRAINT unnamed CHECK", statement)
        parsed = sqlglot.parse(named, dialect="postgres")
    except SqlglotError:
        yield _not_judged(statement)
        return
    for expression in parsed:
        if expression:
            yield from _judge(expression, relations)


def _judge(statement: "exp.Expr", relations: Mapping[str, Relation]) -> Iterator[Problem]:
    from sqlglot import exp

    if isinstance(statement, exp.Drop):
        yield from _drop(statement, relations)
    elif isinstance(statement, exp.Alter):
        yield from _alter(statement, relations)
    elif isinstance(statement, exp.Create) and statement.kind == "INDEX":
        yield from _create_index(statement, relations)
    elif isinstance(statement, exp.TruncateTable):
        for table in _filled(statement.expressions, relations):
            yield _found(
                rules.TRUNCATES_TABLE,
                f"truncates {described(table)}",
                "Only a backup restores the rows.",
            )
    elif isinstance(statement, exp.Delete | exp.Update) and not statement.args.get("where"):
        is_delete = isinstance(statement, exp.Delete)
        verb, rule = (
            ("deletes", rules.DELETES_ALL_ROWS)
            if is_delete
            else ("updates", rules.UPDATES_ALL_ROWS)
        )
        for table in _filled([statement.this], relations):
            yield _found(rule, f"{verb} every row of {described(table)}", _IN_BATCHES)
    elif isinstance(statement, exp.Command):
        yield from _command(statement)


def _command(statement: "exp.Command") -> Iterator[Problem]:
    """Judge a statement that sqlglot does not parse further, by its first word."""
    name, text = statement.this.upper(), str(statement.expression)
    if name == "DO":
        yield _unknown("contains a DO block, which is not analysed", _READ)
    elif name == "ALTER":
        if _ALTERS_TABLE.match(text) and not _HARMLESS.search(text):
            yield _not_judged(f"ALTER {text}")
    elif name in _HEAVY:
        yield _not_judged(f"{statement.this} {text}")


def _drop(statement: "exp.Expr", relations: Mapping[str, Relation]) -> Iterator[Problem]:
    if statement.args["kind"] not in ("TABLE", "VIEW", "SEQUENCE"):
        yield from _drop_other(statement)
        return
    for table in _known(statement.args["tables"], relations):
        yield _found(rules.DROPS_TABLE, f"drops {described(table)}", _DEPLOY_FIRST)


def _drop_other(statement: "exp.Expr") -> Iterator[Problem]:
    kind, names = statement.args["kind"], [table.sql() for table in statement.args["tables"]]
    # Dropping an index takes a moment, and the index can be rebuilt.
    if kind == "INDEX" or statement.args.get("temporary"):
        return
    cascade = ", and all objects that depend on it" if statement.args.get("cascade") else ""
    yield _found(
        rules.DROPS_OBJECT,
        f"drops the {kind.lower()} {', '.join(names)}{cascade}",
        _DEPLOY_FIRST,
    )


def _alter(statement: "exp.Expr", relations: Mapping[str, Relation]) -> Iterator[Problem]:
    from sqlglot import exp

    for table in _known([statement.this], relations):
        for action in statement.args["actions"]:
            if isinstance(action, exp.Drop) and action.args["kind"] == "COLUMN":
                for column in action.args["tables"]:
                    yield _found(
                        rules.DROPS_COLUMN,
                        f"drops the column {column.name!r} of {described(table)}",
                        _DEPLOY_FIRST,
                    )
            elif isinstance(action, exp.AlterRename):
                yield from _rename(statement, action, table)
            elif isinstance(action, exp.RenameColumn):
                old, new = action.this.name, action.args["to"].name
                yield _found(
                    rules.RENAMES_COLUMN,
                    f"renames {old!r} of {described(table)} to {new!r}",
                    _TWO_NAMES,
                )
            elif not table.is_empty:
                yield from _alter_filled(statement, action, table)


def _rename(statement: "exp.Expr", action: "exp.Expr", table: Relation) -> Iterator[Problem]:
    from sqlglot import exp

    if statement.args["kind"] != "TABLE":
        return
    new = action.this.name
    # sqlglot parses RENAME old TO new, without the word COLUMN, as a renamed table.
    if to := next(iter(statement.find_all(exp.ToTableProperty)), None):
        yield _found(
            rules.RENAMES_COLUMN,
            f"renames {new!r} of {described(table)} to {to.this.name!r}",
            _TWO_NAMES,
        )
    else:
        yield _found(rules.RENAMES_TABLE, f"renames {described(table)} to {new!r}", _TWO_NAMES)


def _alter_filled(statement: "exp.Expr", action: "exp.Expr", table: Relation) -> Iterator[Problem]:
    from sqlglot import exp

    where = described(table)
    if isinstance(action, exp.AlterColumn) and action.args.get("dtype"):
        yield _found(
            rules.REWRITES_TABLE,
            f"changes the type of {action.name!r} in {where}, which may rewrite the table and "
            "block reads and writes",
            "Add a column of the new type, fill it in batches, and let the code change over.",
        )
    elif isinstance(action, exp.AlterColumn) and action.args.get("allow_null") is False:
        yield _found(
            rules.SCANS_TABLE,
            f"makes {action.name!r} NOT NULL in {where}, which scans the whole table, blocks reads "
            "and writes, and fails if a value is NULL",
            f"First ADD CONSTRAINT ... CHECK ({action.name} IS NOT NULL) NOT VALID and VALIDATE "
            "it. SET NOT NULL then skips the scan.",
        )
    elif isinstance(action, exp.ColumnDef) and _is_required(action):
        yield _found(
            rules.ADDS_REQUIRED_COLUMN,
            f"adds {action.name!r} NOT NULL without a default to {where}, which fails because the "
            "table has rows",
            "Add it with a server default, or fill it before you make it NOT NULL.",
        )
    elif isinstance(action, exp.ColumnDef) and action.find(*_unique_kinds()):
        yield _unique(where)
    elif isinstance(action, exp.ColumnDef) and _is_computed(action):
        yield _found(
            rules.REWRITES_TABLE,
            f"adds {action.name!r} to {where} with a value computed for each row, which rewrites "
            "the table and blocks reads and writes",
            "Add it without a default, fill it in batches, and set the default for new rows.",
        )
    elif isinstance(action, exp.AddConstraint) and not statement.args["not_valid"]:
        yield from map(partial(_constraint, where=where), action.expressions)


def _constraint(constraint: "exp.Expr", *, where: str) -> Problem:
    if constraint.find(*_unique_kinds()):
        return _unique(where)
    return _found(
        rules.SCANS_TABLE,
        f"adds a constraint to {where}, which blocks writes while all rows are checked",
        _NOT_VALID,
    )


def _unique(where: str) -> Problem:
    return _found(
        rules.SCANS_TABLE,
        f"adds a unique constraint to {where}, which blocks reads and writes while its index is "
        "built",
        "Run CREATE UNIQUE INDEX CONCURRENTLY first, then ADD CONSTRAINT ... USING INDEX.",
    )


def _unique_kinds() -> "tuple[type[exp.Expr], ...]":
    from sqlglot import exp

    return exp.UniqueColumnConstraint, exp.PrimaryKey, exp.PrimaryKeyColumnConstraint


def _create_index(statement: "exp.Expr", relations: Mapping[str, Relation]) -> Iterator[Problem]:
    if statement.args.get("concurrently"):
        return
    for table in _filled([statement.this.args["table"]], relations):
        name = f"the index {statement.this.name!r}" if statement.this.name else "an index"
        yield _found(
            rules.SCANS_TABLE,
            f"builds {name} on {described(table)}, which blocks writes",
            "Build it concurrently: postgresql_concurrently=True, in an autocommit_block().",
        )


def _is_required(column: "exp.Expr") -> bool:
    from sqlglot import exp

    kinds = [constraint.args["kind"] for constraint in column.args.get("constraints") or ()]
    required = any(
        isinstance(kind, exp.NotNullColumnConstraint) and not kind.args.get("allow_null")
        for kind in kinds
    )
    filled = (
        exp.DefaultColumnConstraint,
        exp.GeneratedAsIdentityColumnConstraint,
        exp.ComputedColumnConstraint,
    )
    return (
        required and not _is_serial(column) and not any(isinstance(kind, filled) for kind in kinds)
    )


def _is_computed(column: "exp.Expr") -> bool:
    """Whether each row gets a different value. A constant default rewrites no rows."""
    from sqlglot import exp

    generated = (exp.GeneratedAsIdentityColumnConstraint, exp.ComputedColumnConstraint)
    defaults = column.find_all(exp.DefaultColumnConstraint)
    # The transaction's timestamp is the same for all rows of a statement.
    same = (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime)
    volatile = any(
        function
        for default in defaults
        for function in default.find_all(exp.Func)
        if not isinstance(function, (*same, exp.Cast))
    )
    return volatile or _is_serial(column) or column.find(*generated) is not None


def _is_serial(column: "exp.Expr") -> bool:
    return "SERIAL" in str(column.args.get("kind")).upper()


def _known(tables: "list[exp.Expr]", relations: Mapping[str, Relation]) -> Iterator[Relation]:
    for table in tables:
        if relation := relations.get(".".join(map(_folded, _parts(table)))):
            yield relation


def _parts(table: "exp.Expr") -> "list[exp.Expr]":
    return [part for part in (table.args.get("db"), table.this) if part]


def _folded(identifier: "exp.Expr") -> str:
    """Return an identifier as PostgreSQL folds it: in lower case unless it was quoted."""
    return str(identifier.name if identifier.args.get("quoted") else identifier.name.lower())


def _filled(tables: "list[exp.Expr]", relations: Mapping[str, Relation]) -> Iterator[Relation]:
    return (relation for relation in _known(tables, relations) if not relation.is_empty)


def _bytes(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < _UNIT:
            return f"{size:.0f} {unit}"
        size /= _UNIT
    return f"{size:.0f} {_UNITS[-1]}"


def _found(rule: Rule, cause: str, remedy: str) -> Problem:
    # The plan of a migration has warnings: they prevent nothing.
    return Problem(level=Level.WARNING, cause=cause, remedy=remedy, code=rule.name, kind=rule.kind)


def _not_judged(statement: str) -> Problem:
    text = textwrap.shorten(statement, _SHOWN, placeholder=" ...")
    return _unknown(f"contains a statement that could not be analysed: {text}", _READ)


def _unknown(cause: str, remedy: str) -> Problem:
    return Problem(level=Level.WARNING, cause=cause, remedy=remedy, kind=Kind.OTHER)
