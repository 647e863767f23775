"""Every error code that the package may report, read from its source.

A code is a string that is passed as `code`, assigned to a variable of that name, or part of a
constant with CODE in its name.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.support.imports import Module, modules

CODE = re.compile(r"[a-z]+(-[a-z]+)+|interrupted")
ROOT_ERROR = "HuleEduError"
# Ask Alembic instead; never reach a user.
INTERNAL_ERRORS = {"NotUnderstood"}


@cache
def codes() -> set[str]:
    """Return every code."""
    found = modules()
    constants = {name: value for module in found for name, value in _constants(module)}
    return {
        text
        for module in found
        for value in _values(module)
        for text in _strings(value, constants)
        if CODE.fullmatch(text)
    }


def errors_without_code() -> list[str]:
    """Return the place of each expected failure that is raised without a code."""
    found = modules()
    kinds = error_classes(found)
    return [
        f"{module.path}:{node.lineno}"
        for module in found
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in kinds
        and not any(keyword.arg == "code" for keyword in node.keywords)
    ]


def error_classes(found: list[Module]) -> set[str]:
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for module in found
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    kinds = {ROOT_ERROR}
    while more := {name for name, of in bases.items() if of & kinds} - kinds:
        kinds |= more
    return kinds - INTERNAL_ERRORS


def _constants(module: Module) -> Iterator[tuple[str, ast.expr]]:
    for statement in module.tree.body:
        yield from _assigned(statement)


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Return the names that an assignment binds, each with its value."""
    if isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
        yield node.target.id, node.value
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id, node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for name, value in zip(target.elts, node.value.elts, strict=True):
                if isinstance(name, ast.Name):
                    yield name.id, value


def _values(module: Module) -> Iterator[ast.expr]:
    """Return every expression that is a code, or contains one."""
    yield from (value for name, value in _constants(module) if "CODE" in name)
    positions = dict(_positions(module.tree))
    for node in ast.walk(module.tree):
        assigned = (value for name, value in _assigned(node) if name == "code")
        yield from (value for value in assigned if not isinstance(value, ast.Call))
        if isinstance(node, ast.Call):
            yield from (keyword.value for keyword in node.keywords if keyword.arg == "code")
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            yield from node.args[positions[name] :][:1] if name in positions else ()


def _positions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, int]]:
    """Return the functions and classes that take a code by position, and its position."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _positions(node, node.name)
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args]
            if "code" in names and (not owner or node.name == "__init__"):
                yield owner or node.name, names.index("code") - bool(owner)


def _strings(value: ast.expr, constants: dict[str, ast.expr]) -> Iterator[str]:
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        name = getattr(node, "id", getattr(node, "attr", ""))
        if isinstance(constants.get(name), ast.Constant):
            yield from _strings(constants[name], {})
