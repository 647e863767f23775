"""Where in the repository a module lies that a service's interpreter did not find."""

import os
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.survey.files import repository_files, repository_root

PYTHONPATH = "PYTHONPATH"
_TESTS = frozenset({"tests", "test"})


def import_folder(module: str, near: Path) -> Path | None:
    """Return the folder that makes a module of this repository importable.

    Args:
        module: Its dotted name.
        near: The service's folder.

    Returns:
        Of the folders in which the whole name leads to something, if there are any: one of the
        service's own, else one with a regular package of that name, else the one nearest to the
        root. None if the module is not in the repository.
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

    def rank(folder: Path) -> tuple[bool, bool, bool, int, Path]:
        path = folder / inside
        is_whole = path.is_dir() or path.with_name(f"{path.name}.py").is_file()
        is_own = folder.is_relative_to(near)
        # A folder without __init__.py gives way to a package, as it does on import.
        is_regular = (folder / name / "__init__.py").is_file() or (folder / f"{name}.py").is_file()
        return not is_whole, not is_own, not is_regular, len(folder.parts), folder

    return min(found, key=rank, default=None)


def python_path(service: Service, folder: Path) -> str:
    """Return the service's PYTHONPATH with one more folder, relative to its own."""
    relative = Path(os.path.relpath(folder, service.directory)).as_posix()
    stated = filter(None, service.environment.get(PYTHONPATH, "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([*stated, relative]))
