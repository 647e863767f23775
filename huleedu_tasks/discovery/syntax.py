"""Helpers for the syntax trees of Python."""

import ast
from collections.abc import Iterator

# In bits; longer integers, such as keys, are ignored.
LONGEST_NUMBER = 64


def constants(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield names and attributes with the constant or default that is assigned to them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value:
            target, value = node.target, node.value
        else:
            continue
        text = plain(value)
        if text is not None and isinstance(target, ast.Name | ast.Attribute):
            yield last_name(target), text


def plain(node: ast.expr | None) -> str | None:
    """Return a constant string or integer, or the default of a call that reads a setting.

    Returns:
        The value as a string; `None` if the expression is neither.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int):
        return None if isinstance(node.value, bool) or _is_huge(node.value) else str(node.value)
    if isinstance(node, ast.BoolOp):
        return plain(node.values[-1])
    if isinstance(node, ast.Call):
        stated = {k.arg: k.value for k in node.keywords if k.arg}
        if "default" in stated:
            return plain(stated["default"])
        name = last_name(node.func)
        if len(node.args) > 1 or name in ("int", "str", "Field"):
            return plain(node.args[-1]) if node.args else None
    return None


def _is_huge(value: str | int) -> bool:
    # Python raises ValueError when it converts an integer with very many digits.
    return isinstance(value, int) and value.bit_length() > LONGEST_NUMBER


def dotted(node: ast.expr) -> str:
    """Return a dotted name; `...` for any other expression, which may contain a password."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([node.id, *parts]) if isinstance(node, ast.Name) else "..."


def last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name; empty string for any other expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def inner_name(node: ast.expr) -> str:
    """Return the last name in an expression, without the calls around it."""
    # `quote(user)` and `str(port)` have the name of their argument.
    while isinstance(node, ast.Call) and len(node.args) == 1:
        node = node.args[0]
    return last_name(node)


def texts(node: ast.expr) -> list[str]:
    """Return every constant string in an expression."""
    return [
        child.value
        for child in ast.walk(node)
        if isinstance(child, ast.Constant) and isinstance(child.value, str)
    ]


def env_prefix(node: ast.ClassDef) -> str:
    """Return the `env_prefix` of a class of pydantic settings; empty string without one."""
    for child in ast.walk(node):
        if isinstance(child, ast.keyword) and child.arg == "env_prefix":
            return plain(child.value) or ""
        if isinstance(child, ast.Assign) and last_name(child.targets[0]) == "env_prefix":
            return plain(child.value) or ""
    return ""
