"""Where in the repository a module lies that a service's interpreter did not find."""

import json
import os
import re
import sys
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.survey.files import is_file, repository_files, repository_root, shown
from huleedu_tasks.survey.folders import VIRTUAL_PYTHONS

PYTHONPATH = "PYTHONPATH"
MISSING_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
# What makes a folder installable.
PROJECT_FILES = ("pyproject.toml", "setup.py")
# The distributions of modules that have another name.
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


def missing_module_hint(service: Service, text: str, *, of_seed: bool = False) -> str:
    """Return how to make the module importable that an error names.

    Args:
        text: The error, as Python shows it.
        of_seed: Whether a seed raised it, which runs in the interpreter of the tasks.

    Returns:
        The hint; an empty string if the error is another one.
    """
    found = MISSING_MODULE.search(text)
    if not found:
        return ""
    module = found[1]
    library, _, rest = module.partition(".")
    if folder := import_folder(module, service.directory):
        return _hint_for_own(service, library, folder, of_seed=of_seed)
    if rest:
        return f"{library} has no module {rest}: correct the import, or update {library}."
    return _hint_for_library(service, library, of_seed=of_seed)


def _hint_for_own(service: Service, library: str, folder: Path, *, of_seed: bool) -> str:
    root = repository_root(folder) or folder
    member = f'"{PYTHONPATH}": {json.dumps(python_path(service, folder))}'
    environment = f'"environment": {{{member}}}'
    if service.environment:
        environment = f'{member} in "environment"'
    hint = (
        f"{library} lies in this repository, in {shown(folder, root)}. State {environment} for "
        f"{service.name} in the registry"
    )
    if project := _project_of(folder, root):
        hint += (
            f", or install it: `{_python(service, of_seed=of_seed)} -m pip install -e {project}`"
        )
    return f"{hint}."


def _hint_for_library(service: Service, library: str, *, of_seed: bool) -> str:
    distribution = DISTRIBUTIONS.get(library, library)
    install = f"`{_python(service, of_seed=of_seed)} -m pip install {distribution}`"
    if of_seed:
        return f"Seeds run in the interpreter of the tasks, which has no {library}: {install}."
    own = next((name for name in VIRTUAL_PYTHONS if is_file(service.directory / name)), "")
    other = "the path of another interpreter"
    if own and not service.python:
        other = f'"{own}"'
    return (
        f"The interpreter that runs its migrations has no {library}: {install}, or state "
        f'"python": {other} for {service.name} in the registry.'
    )


def _python(service: Service, *, of_seed: bool) -> str:
    return sys.executable if of_seed or not service.python else " ".join(service.python)


def _project_of(folder: Path, root: Path) -> str:
    """Return the nearest installable folder above a folder; an empty string if there is none."""
    for path in (folder, *folder.parents):
        if path == root or not path.is_relative_to(root):
            return ""
        if any(is_file(path / name) for name in PROJECT_FILES):
            return str(path)
    return ""


def import_folder(module: str, near: Path) -> Path | None:
    """Return the folder that makes a module of this repository importable.

    Args:
        module: Its dotted name.
        near: The service's folder.

    Returns:
        Of the folders below which the whole name leads to something: one in `near`, else one with
        a regular package of that name, else one with code, else the one nearest to the root; None
        if the module is not in the repository.
    """
    root = repository_root(near) or near
    name = module.partition(".")[0]
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

    def has_whole(folder: Path) -> bool:
        path = folder / inside
        return path.is_dir() or path.with_name(f"{path.name}.py").is_file()

    def is_regular(folder: Path) -> bool:
        """A directory without __init__.py gives way to a package, as it does on import."""
        return (folder / name / "__init__.py").is_file() or (folder / f"{name}.py").is_file()

    def has_code(folder: Path) -> bool:
        # A project's folder may have the name of the package that lies deeper in it.
        package = folder / name
        files = {path.name for path in package.glob("*.py")}
        return not package.is_dir() or bool(files.difference(PROJECT_FILES))

    def rank(folder: Path) -> tuple[bool, bool, bool, int, Path]:
        return (
            not folder.is_relative_to(near),
            not is_regular(folder),
            not has_code(folder),
            len(folder.parts),
            folder,
        )

    return min(filter(has_whole, found), key=rank, default=None)


def python_path(service: Service, folder: Path) -> str:
    """Return the service's PYTHONPATH with one more folder, relative to its own."""
    relative = Path(os.path.relpath(folder, service.directory)).as_posix()
    stated = filter(None, service.environment.get(PYTHONPATH, "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([*stated, relative]))
