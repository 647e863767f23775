"""The completion of service names, which Invoke's own completion leaves out."""

from contextlib import suppress
from pathlib import Path

from huleedu_tasks.app import App
from huleedu_tasks.errors import HuleEduError

# The flags that take the name of a service.
_FLAGS = ("--service", "--first")


def services_for(line: str, start: Path) -> tuple[str, ...]:
    """Return the names that may follow the flag at the end of a command line.

    Args:
        line: The command line up to the cursor. It does not show whether a space follows its last
            word, so that a complete name is taken as finished.
        start: The working directory.

    Returns:
        The names of all services, of which the shell selects; empty if the line does not end with
        a flag for services and perhaps a part of a name, or if no valid registry was found.
    """
    words = line.split() or [""]
    if words[-1] in _FLAGS:
        return _names(start)
    names = _names(start) if words[-2:-1] and words[-2] in _FLAGS else ()
    return () if words[-1] in names else names


def _names(start: Path) -> tuple[str, ...]:
    app = App(start=start, dry_run=True)
    with suppress(HuleEduError):
        # Discovery would take too long.
        if app.registry_path.is_file():
            return tuple(service.name for service in app.stated_registry.services)
    return ()
