"""Finds the environment variable that holds the URL of a service's database."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from huleedu_tasks.discovery.questions import Known
from huleedu_tasks.discovery.service_facts import Reading

# A service's variables with their places, the most reliable first.
Places = Mapping[str, str]


def own_variables(readings: Sequence[Reading]) -> dict[Path, Places]:
    """Return the variables of each service, by the key of its directory."""
    return {reading.directory.key: _ranked(reading) for reading in readings}


def find_variable(reading: Reading, variables: Mapping[Path, Places]) -> dict[str, Known]:
    """Return `url_variable`, or `alembic_url_variable` if other services use the variable too.

    Returns:
        One field with its evidence; empty if the service has no variable.
    """
    path = reading.directory.key
    others = [places for other, places in variables.items() if other != path]
    for name, place in variables[path].items():
        if not any(name in places for places in others):
            return {"url_variable": Known(value=name, evidence=place)}
    for name, place in variables[path].items():
        return {"alembic_url_variable": Known(value=name, evidence=place)}
    return {}


def _ranked(reading: Reading) -> Places:
    read = [(variable.value, variable.place) for variable in reading.sources.variables]
    own = {variable.value for variable in reading.sources.variables if variable.own}
    databases = sorted(reading.containers.databases, key=lambda database: not database.is_main)
    stated = [(database.variable, database.place) for database in databases if database.variable]
    names_stated = {name for name, _ in stated}
    places: dict[str, str] = {}
    for name, place in (
        *(pair for pair in read if pair[0] in names_stated),
        *(pair for pair in read if pair[0] in own),
        *stated,
        # If shared code builds the name of the variable, other names in it are not the service's.
        *(() if reading.sources.builds_variable else read),
    ):
        places.setdefault(name, place)
    return places
