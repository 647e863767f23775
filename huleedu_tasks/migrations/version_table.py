"""Which version table a service's `env.py` configures, read from it without running it.

This is a fast path, for an `env.py` that states it literally, or states nothing; for any other,
Alembic must be asked (`alembic_history.py`). After each migration Alembic reports it anyway.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from huleedu_tasks.migrations.revisions import NotUnderstood
from huleedu_tasks.postgres.databases import VersionTable

CONTEXT = "context"
CONFIGURE = "configure"
# What leads a table without a schema elsewhere than our own session finds it, or configures
# Alembic in another way.
_ELSEWHERE = re.compile(
    rb"search_path|schema_translate_map|SET\s+SCHEMA|SET\s+ROLE|SET\s+SESSION|MigrationContext"
    rb"|EnvironmentContext|context_opts|exec\(|getattr\(\s*context",
    re.IGNORECASE,
)


def stated_version_table(env_py: Path) -> VersionTable:
    """Return the version table that an `env.py` configures when it connects.

    Raises:
        NotUnderstood: If only running it tells.
    """
    try:
        text = env_py.read_bytes()
        tree = ast.parse(text, filename=str(env_py))
    except (OSError, ValueError, SyntaxError) as error:
        raise NotUnderstood(f"{env_py} cannot be read: {error}") from None
    if indirect := _ELSEWHERE.search(text):
        raise NotUnderstood(f"env.py uses {indirect[0].decode()}")
    _require_plain_context(tree)
    constants = _constants(tree)
    calls = [call for call in _configurations(tree) if not _is_offline(call)]
    tables = {_table_of(call, constants) for call in calls}
    if len(tables) != 1:
        raise NotUnderstood(f"env.py states {len(tables)} version tables")
    return tables.pop()


def _require_plain_context(tree: ast.Module) -> None:
    """See that Alembic's context is used by its name only, and not in a loop of tenants.

    Raises:
        NotUnderstood: If it may be configured in a way that does not show.
    """
    imported = [
        alias
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "alembic"
        for alias in node.names
        if alias.name == CONTEXT and alias.asname in (None, CONTEXT)
    ]
    if any(isinstance(node, ast.alias) and node.name == "*" for node in ast.walk(tree)):
        raise NotUnderstood("env.py imports names it does not list")
    owners = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == CONTEXT]
    if not imported or any(id(use) not in owners for use in uses):
        raise NotUnderstood("env.py hands Alembic's context on")
    loops = (ast.For, ast.AsyncFor, ast.While)
    inside = [each for loop in ast.walk(tree) if isinstance(loop, loops) for each in ast.walk(loop)]
    if any(_is_configuration(each) for each in inside):
        raise NotUnderstood("env.py configures Alembic in a loop")


def _configurations(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_configuration(node):
            yield node


def _is_configuration(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == CONFIGURE
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == CONTEXT
    )


def _is_offline(call: ast.Call) -> bool:
    """Whether a call is for SQL that is only written: it states a URL and no connection."""
    names = {keyword.arg for keyword in call.keywords}
    return not call.args and None not in names and "connection" not in names


def _table_of(call: ast.Call, constants: dict[str, str | None]) -> VersionTable:
    stated: dict[str, str] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise NotUnderstood("env.py configures Alembic with a dictionary of options")
        if keyword.arg in ("version_table", "version_table_schema"):
            value = _text_of(keyword.value, constants)
            if value is not None:
                stated[keyword.arg] = value
    default = VersionTable()
    return VersionTable(
        name=stated.get("version_table", default.name), schema=stated.get("version_table_schema")
    )


def _text_of(node: ast.expr, constants: dict[str, str | None]) -> str | None:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str)):
        return node.value
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    raise NotUnderstood(f"env.py computes the version table in line {node.lineno}")


def _constants(tree: ast.Module) -> dict[str, str | None]:
    """Return the names that are bound once in the whole file, to a string or None."""
    bound = [
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    ]
    bound += [each.arg for each in ast.walk(tree) if isinstance(each, ast.arg)]
    found = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            value = getattr(node, "value", None)
            if (
                isinstance(target, ast.Name)
                and bound.count(target.id) == 1
                and isinstance(value, ast.Constant)
                and (value.value is None or isinstance(value.value, str))
            ):
                found[target.id] = value.value
    return found
