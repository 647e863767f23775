"""Finds modules of the repository that a service's interpreter did not find."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

from huleedu_tasks.config.registry import ALEMBIC, Service
from huleedu_tasks.errors import HuleEduError, SeedError
from huleedu_tasks.migrations.directories import VIRTUAL_PYTHONS
from huleedu_tasks.repository import is_file, repository_files, repository_root, shown

PYTHONPATH = "PYTHONPATH"
MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
# Files of a directory that pip can install.
PROJECT_FILES = ("pyproject.toml", "setup.py")
# Distributions by the name of their module, if the names differ.
DISTRIBUTIONS = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "decouple": "python-decouple",
    "dotenv": "python-dotenv",
    "environ": "django-environ",
    "google": "protobuf",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "PIL": "Pillow",
    "pkg_resources": "setuptools",
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "yaml": "PyYAML",
}
_TESTS = frozenset({"tests", "test"})


def hint_of(service: Service, error: HuleEduError) -> str:
    """Return the hint of an error; for a missing module, how to install it."""
    is_seed = isinstance(error, SeedError)
    return missing_module_hint(service, error.message, of_seed=is_seed) or error.hint


def missing_module_hint(service: Service, text: str, *, of_seed: bool = False) -> str:
    """Return how to make a missing module importable.

    Args:
        service: The service whose code raised the error.
        text: The error, as Python prints it.
        of_seed: Whether a seed raised it. Seeds run in the interpreter of the tasks.

    Returns:
        The hint; an empty string if the error is not a ModuleNotFoundError.
    """
    found = MISSING_MODULE.search(text)
    if not found:
        return ""
    module = found[1]
    library, _, rest = module.partition(".")
    if directory := import_directory(module, service.directory):
        return _hint_for_own(service, library, directory, of_seed=of_seed)
    if rest:
        return f"{library} has no module {rest}. Correct the import, or update {library}."
    return _hint_for_library(service, library, of_seed=of_seed)


def _hint_for_own(service: Service, library: str, directory: Path, *, of_seed: bool) -> str:
    root = repository_root(directory) or directory
    member = f'"{PYTHONPATH}": {json.dumps(python_path(service, directory))}'
    environment = f'"environment": {{{member}}}'
    if service.environment:
        environment = f'{member} in "environment"'
    hint = (
        f"{library} is in {shown(directory, root)} of this repository. State {environment} for "
        f"{service.name} in the registry"
    )
    if project := _project_of(directory, root):
        hint += (
            f", or install it: `{_python(service, of_seed=of_seed)} -m pip install -e {project}`"
        )
    return f"{hint}."


def _hint_for_library(service: Service, library: str, *, of_seed: bool) -> str:
    distribution = DISTRIBUTIONS.get(library, library)
    install = f"`{_python(service, of_seed=of_seed)} -m pip install {distribution}`"
    if of_seed:
        return f"Seeds run in the interpreter of the tasks, which has no {library}. Run {install}."
    own = next((name for name in VIRTUAL_PYTHONS if is_file(service.directory / name)), "")
    other = "the path of another interpreter"
    if own and not service.python:
        other = f'"{own}"'
    return (
        f"The interpreter that runs its migrations has no {library}. Run {install}, or state "
        f'"python": {other} for {service.name} in the registry.'
    )


def _python(service: Service, *, of_seed: bool) -> str:
    return sys.executable if of_seed or not service.python else " ".join(service.python)


def _project_of(directory: Path, root: Path) -> str:
    """Return the nearest installable parent of a directory; an empty string if it has none."""
    for path in (directory, *directory.parents):
        if path == root or not path.is_relative_to(root):
            return ""
        if any(is_file(path / name) for name in PROJECT_FILES):
            return str(path)
    return ""


def import_directory(module: str, near: Path) -> Path | None:
    """Return the directory that makes a module of this repository importable.

    Args:
        module: Its dotted name.
        near: The service's directory.

    Returns:
        A directory in which the whole name resolves. A directory in `near` is preferred, then one
        with a regular package of that name, then one with code, then the one nearest to the root.
        None if the module is not in the repository.
    """
    root = repository_root(near) or near
    name = module.partition(".")[0]
    if _is_library(name, root):
        return None
    found = set()
    for path in repository_files(root):
        if path.suffix != ".py" or not _TESTS.isdisjoint(path.relative_to(root).parts):
            continue
        if path.stem == name and not (path.parent / "__init__.py").exists():
            found.add(path.parent)
        found |= {
            parent.parent
            for parent in path.parents
            if parent.name == name
            and parent.is_relative_to(root)
            and parent != root
            and not (parent.parent / "__init__.py").exists()
        }
    inside = Path(*module.split("."))

    def has_whole(directory: Path) -> bool:
        path = directory / inside
        return path.is_dir() or path.with_name(f"{path.name}.py").is_file()

    def is_regular(directory: Path) -> bool:
        """Whether it has __init__.py; imports prefer it to a namespace package."""
        return (directory / name / "__init__.py").is_file() or (directory / f"{name}.py").is_file()

    def has_code(directory: Path) -> bool:
        # A project's directory may have the name of the package inside it.
        package = directory / name
        files = {path.name for path in package.glob("*.py")}
        return not package.is_dir() or bool(files.difference(PROJECT_FILES))

    def rank(directory: Path) -> tuple[bool, bool, bool, int, Path]:
        return (
            not directory.is_relative_to(near),
            not is_regular(directory),
            not has_code(directory),
            len(directory.parts),
            directory,
        )

    return min(filter(has_whole, found), key=rank, default=None)


def _is_library(name: str, root: Path) -> bool:
    """Whether a module is installed, although directories of the repository have its name."""
    if name == ALEMBIC:
        # Every service has a directory of that name.
        return True
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:
        return False
    return bool(spec and spec.origin) and root not in Path(str(spec and spec.origin)).parents


def python_path(service: Service, directory: Path) -> str:
    """Return the service's PYTHONPATH with a directory added, relative to the service's."""
    relative = Path(os.path.relpath(directory, service.directory)).as_posix()
    stated = filter(None, service.environment.get(PYTHONPATH, "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([*stated, relative]))
