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


def _functions(revision: Revision) -> list[ast.FunctionDef]:
    try:
        tree = ast.parse(revision.path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def _is_nothing(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)
