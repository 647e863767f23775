"""The words of every message that has an error code, read from the source of the package.

`python -m tests.support.messages` writes them to `tests/golden/messages.txt`, one block for each
code: the place in the source, the message with its `{placeholders}`, and the hint. Where an
expression has several values, such as `a if b else c`, each is a line.
"""

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from tests.support.codes import codes, error_classes
from tests.support.imports import Module, modules
from tests.support.monorepo import PROJECT

GOLDEN = PROJECT / "tests" / "golden" / "messages.txt"
# The arguments and parameters that hold words, and the label of each in the golden file.
LABELS = {
    "message": "message",
    "text": "message",
    "cause": "message",
    "problem": "message",
    "detail": "message",
    "hint": "hint",
    "remedy": "hint",
    # A string in a table.
    "": "words",
}
# A finding needs no code; these classes and parameters make one.
WITHOUT_CODE = "no code"
FINDING = {"Finding", "Problem", "cause", "problem"}
# A call within a call is followed this far.
DEPTH = 3
# A code in a message that is printed as it is.
CODE_AT_END = re.compile(r".* \[([a-z-]+)\]$", re.DOTALL)
# An expression of more values is a placeholder.
MOST = 24

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """One place in the source that reports a code.

    Attributes:
        code: The error code.
        place: The module and the function.
        lines: The words, each with its label.
    """

    code: str
    place: str
    lines: tuple[str, ...]


def golden() -> str:
    """Return what the golden file must contain."""
    by_code: dict[str, set[Message]] = defaultdict(set)
    for message in messages():
        by_code[message.code].add(message)
    findings = sorted(message for message in by_code.pop(WITHOUT_CODE) if message.lines)
    blocks = [_block(code, sorted(by_code[code])) for code in sorted(by_code)]
    return "\n".join([*blocks, _block(WITHOUT_CODE, findings)])


@cache
def messages() -> tuple[Message, ...]:
    """Return the words of every call and table row that has a code."""
    return tuple(_read())


def _read() -> Iterator[Message]:
    package = _Package(modules())
    for module in package.modules:
        for place, scope in _scopes(module.tree, module.path):
            reader = _Reader(package, module.path, scope)
            for node in _own_nodes(scope):
                yield from reader.messages_of(node, place)


def _block(code: str, found: Sequence[Message]) -> str:
    places = ("\n".join([message.place, *message.lines]) for message in found)
    return "\n".join([f"[{code}]", *places, ""])


class _Package:
    """The functions and constants of the package, by name."""

    def __init__(self, found: list[Module]) -> None:
        self.modules = found
        self.codes = codes()
        self._errors = error_classes(found)
        self._functions: dict[str, dict[str, Function]] = defaultdict(dict)
        self._constants: dict[str, dict[str, ast.expr]] = defaultdict(dict)
        for module in found:
            for node in ast.walk(module.tree):
                if isinstance(node, FUNCTION):
                    self._functions[node.name][module.path] = node
            for name, value in _bound(module.tree):
                self._constants[name][module.path] = value

    def function(self, name: str, path: str) -> Function | None:
        """Return the function of that name in the module, or else the only one."""
        return _own_or_only(self._functions[name], path)

    def parameters(self, name: str, path: str) -> list[str]:
        """Return the names of the parameters of a function or error of the package."""
        if name in self._errors:
            return ["message"]
        function = self.function(name, path)
        return [name for name in _parameters(function) if name != "self"] if function else []

    def constant(self, name: str, path: str) -> ast.expr | None:
        """Return the constant of that name in the module, or else the only one."""
        return _own_or_only(self._constants[name], path)


class _Reader:
    """Reads the words in one function, or at the top of a module.

    Args:
        package: All functions and constants.
        path: The path of the module.
        scope: The function or module.
        depth: How many calls may still be followed.
    """

    def __init__(self, package: _Package, path: str, scope: ast.AST, *, depth: int = DEPTH) -> None:
        self._package = package
        self._path = path
        self._depth = depth
        self._bound: dict[str, list[ast.expr]] = defaultdict(list)
        self._own_names = _own_names(scope) if isinstance(scope, FUNCTION) else set()
        if not isinstance(scope, ast.Module):
            for name, value in _bound(scope):
                self._bound[name].append(value)

    def messages_of(self, node: ast.AST, place: str) -> Iterator[Message]:
        """Yield the messages of a call, or of a row of a table, that contains a code."""
        match node:
            case ast.Call():
                yield from self._messages(self._arguments(node), place, _name(node.func))
            case ast.Tuple(elts=values):
                yield from self._messages([("", value) for value in values], place)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if key and isinstance(value, ast.Constant):
                        yield from self._messages([("", key), ("code", value)], place)

    def _arguments(self, call: ast.Call) -> list[tuple[str, ast.expr]]:
        """Return the arguments of a call, each with the name of its parameter."""
        names = self._package.parameters(_name(call.func), self._path)
        named = [(keyword.arg or "", keyword.value) for keyword in call.keywords]
        unnamed = [""] * len(call.args)
        return [*zip([*names, *unnamed], call.args, strict=False), *named]

    def _messages(
        self, values: list[tuple[str, ast.expr]], place: str, callee: str = ""
    ) -> Iterator[Message]:
        found = {code for label, value in values for code in self._codes(label, value)}
        if not found and FINDING & {callee, *(label for label, _ in values)}:
            found = {WITHOUT_CODE}
        if not found:
            return
        lines = [
            f"  {LABELS[label]}: {words}".replace("\n", "\n    ")
            for label, value in values
            if label in LABELS
            for words in self.words(value)
            if " " in words
        ]
        for code in found:
            yield Message(code, place, tuple(dict.fromkeys(lines)))

    def _codes(self, label: str, value: ast.expr) -> list[str]:
        if label not in ("", "code", "text"):
            return []
        ends = (CODE_AT_END.sub(r"\1", text) for text in self.words(value))
        return [text for text in ends if text in self._package.codes]

    def words(self, value: ast.expr) -> list[str]:
        """Return the values of an expression, with placeholders for what is computed."""
        known = self._words(value)
        return known if 0 < len(known) <= MOST else [_placeholder(value)]

    def _words(self, value: ast.expr) -> list[str]:  # noqa: C901 - one case for each expression
        match value:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.Constant(value=other):
                return ["" if other is None else str(other)]
            case ast.JoinedStr(values=parts):
                return self._joined(parts)
            case ast.FormattedValue(value=inner):
                return self._inserted(inner)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._joined([left, right])
            case ast.IfExp(body=body, orelse=orelse):
                return [*self.words(body), *self.words(orelse)]
            case ast.BoolOp(values=choices):
                return [words for choice in choices for words in self.words(choice)]
            case ast.NamedExpr(value=inner):
                return self.words(inner)
            case ast.Name(id=name) | ast.Attribute(attr=name) if name.isupper():
                return self._constant(name)
            case ast.Name(id=name):
                return self._variable(name) or self._returned(name)
            case ast.Call(func=ast.Name(id=name)):
                return self._returned(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=name)):
                return self._returned(name) if owner == "self" or not self._knows(owner) else []
        return []

    def _joined(self, parts: Sequence[ast.expr]) -> list[str]:
        choices = [self.words(part) for part in parts]
        return ["".join(chosen) for chosen in itertools.islice(itertools.product(*choices), 100)]

    def _inserted(self, inner: ast.expr) -> list[str]:
        """Return the words of a part of an f-string: a constant, or more than a name."""
        known = self.words(inner)
        is_telling = _name(inner).isupper() or any(map(_has_words, known))
        return known if is_telling else [_placeholder(inner)]

    def _variable(self, name: str) -> list[str]:
        # Without it, so that `text = text or "..."` ends.
        values = self._bound.pop(name, [])
        known = [words for value in values for words in self.words(value)]
        self._bound[name] = values
        return known

    def _constant(self, name: str) -> list[str]:
        value = self._package.constant(name, self._path)
        return self.words(value) if value else []

    def _knows(self, name: str) -> bool:
        """Whether a name is a parameter or variable here, and not a function or module."""
        return name in self._own_names

    def _returned(self, name: str) -> list[str]:
        function = self._package.function(name, self._path)
        if not function or not self._depth or self._knows(name):
            return []
        inside = _Reader(self._package, self._path, function, depth=self._depth - 1)
        values = [
            node.value
            for node in _own_nodes(function)
            if isinstance(node, ast.Return | ast.Yield) and node.value
        ]
        return [words for value in values for words in inside.words(value)]


def _scopes(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield a module and every function in it, with its name."""
    yield name, node
    pending = [(name, child) for child in ast.iter_child_nodes(node)]
    while pending:
        owner, child = pending.pop()
        inner = owner
        if isinstance(child, (*FUNCTION, ast.ClassDef)):
            inner = f"{owner} {child.name}" if owner == name else f"{owner}.{child.name}"
        if isinstance(child, FUNCTION):
            yield inner, child
        pending.extend((inner, grandchild) for grandchild in ast.iter_child_nodes(child))


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function or module without those of functions inside it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, FUNCTION):
            yield from _own_nodes(child)


def _bound(scope: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that a function or module binds, each with its value."""
    for node in _own_nodes(scope):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                yield name, value
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for target, value in zip(names, values, strict=False):
                    if isinstance(target, ast.Name):
                        yield target.id, value


def _parameters(function: Function) -> list[str]:
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


def _own_names(function: Function) -> set[str]:
    """Return the parameters and variables of a function."""
    stored = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return stored | set(_parameters(function))


def _name(value: ast.expr) -> str:
    return str(getattr(value, "attr", getattr(value, "id", "")))


def _has_words(text: str) -> bool:
    """Whether a string is more than placeholders."""
    while text != (text := re.sub(r"\{[^{}]*\}", "", text)):
        pass
    return bool(re.search(r"[a-z] [a-z]", text))


def _placeholder(value: ast.expr) -> str:
    return f"{{{ast.unparse(value)}}}"


def _own_or_only(found: dict[str, T], path: str) -> T | None:
    only = next(iter(found.values())) if len(found) == 1 else None
    return found.get(path, only)


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
