"""What the modules of the package import and call, read from their source."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tests.support.monorepo import PROJECT

PACKAGE = "huleedu_tasks"


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        name: Its dotted name, without what is taken from it.
        lazy: Whether it stands inside a function.
        for_types: Whether only a type checker sees it.
    """

    name: str
    lazy: bool = False
    for_types: bool = False

    @property
    def library(self) -> str:
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """One module of the package."""

    path: str

    @property
    def name(self) -> str:
        """Its dotted name, as others import it."""
        return (
            f"{PACKAGE}/{self.path}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        )

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse((PROJECT / PACKAGE / self.path).read_bytes())

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree))

    @cached_property
    def mentions(self) -> set[str]:
        """Every dotted name in its code, and every name it takes from a module."""
        names = {
            ast.unparse(n) for n in ast.walk(self.tree) if isinstance(n, ast.Name | ast.Attribute)
        }
        taken = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        return names | taken


@cache
def modules() -> list[Module]:
    """Return every module of the package."""
    root = PROJECT / PACKAGE
    return [Module(path.relative_to(root).as_posix()) for path in sorted(root.rglob("*.py"))]


def is_module(name: str) -> bool:
    """Whether a dotted name of the package is a module and not something in one."""
    path = PROJECT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _imports(node: ast.AST, *, lazy: bool = False, for_types: bool = False) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, lazy, for_types)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide which room is used"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            own = inner.startswith(f"{PACKAGE}.") and is_module(inner)
            yield Import(inner if own else str(node.module), lazy, for_types)
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for seen, branch in ((True, node.body), (for_types, node.orelse)):
            for statement in branch:
                yield from _imports(statement, lazy=lazy, for_types=seen)
    else:
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, lazy=inside, for_types=for_types)
