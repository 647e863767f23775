"""Reads the version table that a service's `env.py` configures, without running it.

This is a fast path, for an `env.py` with a literal version table, or with the default one. For any
other one Alembic is asked (`alembic_history.py`). Each migration reports its version table, too.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from huleedu_tasks.migrations.alembic_config import NotUnderstood
from huleedu_tasks.postgres.databases import VersionTable

CONTEXT = "context"
CONFIGURE = "configure"
# Code that moves a table without a schema to a schema that our own session does not search, or
# that configures Alembic in another way.
_ELSEWHERE = re.compile(
    rb"search_path|schema_translate_map|SET\s+SCHEMA|SET\s+ROLE|SET\s+SESSION|MigrationContext"
    rb"|EnvironmentContext|context_opts|exec\(|getattr\(\s*context",
    re.IGNORECASE,
)


def stated_version_table(env_py: Path) -> VersionTable:
    """Return the version table that an `env.py` configures when it connects.

    Raises:
        NotUnderstood: If only Alembic can determine it.
    """
    try:
        text = env_py.read_bytes()
        tree = ast.parse(text, filename=str(env_py))
    except (OSError, ValueError, SyntaxError) as error:
        raise NotUnderstood(f"{env_py} could not be read: {error}") from None
    if indirect := _ELSEWHERE.search(text):
        raise NotUnderstood(f"env.py uses {indirect[0].decode()}")
    _require_plain_context(tree)
    constants = _constants(tree)
    calls = [call for call in _configurations(tree) if not _is_offline(call)]
    tables = {_table_of(call, constants) for call in calls}
    if len(tables) != 1:
        raise NotUnderstood(f"env.py configures {len(tables)} version tables")
    return tables.pop()


def _require_plain_context(tree: ast.Module) -> None:
    """Require that `context` is used only by its name, and not in a loop of tenants.

    Raises:
        NotUnderstood: If `env.py` may configure Alembic indirectly.
    """
    imported = [
        alias
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "alembic"
        for alias in node.names
        if alias.name == CONTEXT and alias.asname in (None, CONTEXT)
    ]
    if any(isinstance(node, ast.alias) and node.name == "*" for node in ast.walk(tree)):
        raise NotUnderstood("env.py has an import *")
    owners = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == CONTEXT]
    if not imported or any(id(use) not in owners for use in uses):
        raise NotUnderstood("env.py passes Alembic's context to other code")
    loops = (ast.For, ast.AsyncFor, ast.While)
    inside = [node for loop in ast.walk(tree) if isinstance(loop, loops) for node in ast.walk(loop)]
    if any(_is_configuration(node) for node in inside):
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
    """Whether a call configures offline mode: with a URL and without a connection."""
    names = {keyword.arg for keyword in call.keywords}
    return not call.args and None not in names and "connection" not in names


def _table_of(call: ast.Call, constants: dict[str, str | None]) -> VersionTable:
    stated: dict[str, str] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise NotUnderstood("env.py configures Alembic with a dictionary of options")
        if keyword.arg in ("version_table", "version_table_schema"):
            value = _string_of(keyword.value, constants)
            if value is not None:
                stated[keyword.arg] = value
    default = VersionTable()
    return VersionTable(
        name=stated.get("version_table", default.name), schema=stated.get("version_table_schema")
    )


def _string_of(node: ast.expr, constants: dict[str, str | None]) -> str | None:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str)):
        return node.value
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    raise NotUnderstood(f"env.py computes the version table in line {node.lineno}")


def _constants(tree: ast.Module) -> dict[str, str | None]:
    """Return the names that the file binds once, to a string or None."""
    bound = [
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    ]
    bound += [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]
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
