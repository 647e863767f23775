"""The functions of revision files: which of them exist, and which do something."""

import ast

from huleedu_tasks.migrations.revisions import Revision

UPGRADE, DOWNGRADE = "upgrade", "downgrade"


def function_sizes(revision: Revision) -> dict[str, int]:
    """Return the number of statements of each function of a revision, without `pass`.

    Empty if the file cannot be parsed.
    """
    return {
        node.name: sum(not _is_nothing(statement) for statement in node.body)
        for node in _functions(revision)
    }


def has_downgrade(revision: Revision) -> bool:
    """Whether a revision can be undone: not if it does something and its downgrade does nothing.

    A downgrade that only raises an error does nothing either.
    """
    bodies = {node.name: node.body for node in _functions(revision)}
    if DOWNGRADE not in bodies:
        return not bodies
    done = [statement for statement in bodies[DOWNGRADE] if not _is_nothing(statement)]
    if not done:
        return all(map(_is_nothing, bodies.get(UPGRADE, [])))
    return not isinstance(done[0], ast.Raise)


def line_of(revision: Revision, name: str) -> int:
    """Return the line where a file defines a function or assigns a variable; 1 without it."""
    for node in _statements(revision):
        names = [getattr(node, "name", ""), *map(_target, getattr(node, "targets", []))]
        if name in (*names, _target(getattr(node, "target", None))):
            return node.lineno
    return 1


def _target(node: ast.AST | None) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _functions(revision: Revision) -> list[ast.FunctionDef]:
    return [node for node in _statements(revision) if isinstance(node, ast.FunctionDef)]


def _statements(revision: Revision) -> list[ast.stmt]:
    try:
        return ast.parse(revision.path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []


def _is_nothing(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)
