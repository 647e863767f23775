"""Which databases a server creates in a new volume, and which of them a service uses."""

import re
from collections.abc import Mapping
from pathlib import Path

from huleedu_tasks.compose.database_service import DATABASE_VARIABLES, Container
from huleedu_tasks.compose.init_scripts import INIT_DIRECTORY, SCRIPTS
from huleedu_tasks.discovery.name_likeness import common_prefix, likeness, stem
from huleedu_tasks.discovery.service_facts import Reading, telling_name
from huleedu_tasks.discovery.sources import Sighting, Sources
from huleedu_tasks.repository import is_directory, is_file, shown, text_of

# Variables that a widespread init script splits into database names.
LISTS = ("POSTGRES_MULTIPLE_DATABASES", "POSTGRES_DATABASES", "POSTGRES_DBS")
_CREATE = re.compile(r'\bCREATE\s+DATABASE\s+(?:"([^"$]+)"|(\w+))(?!\$)', re.IGNORECASE)
_CREATEDB = re.compile(r"\bcreatedb\b[^\n]*?\s([A-Za-z_]\w*)\s*$", re.MULTILINE)


def databases_created(server: Container, root: Path) -> dict[str, str]:
    """Return the databases that a server creates, each with its place; its default one is first."""
    declared = shown(server.file, root) if server.file else "compose files"
    made: dict[str, str] = {}
    if server.database:
        made[server.database] = f"{declared}: {server.name} creates {server.database}"
    for variable in LISTS:
        for stated in re.split(r"[,;\s]+", server.environment.get(variable, "")):
            # An item may be `database:user:password`.
            if name := stated.partition(":")[0]:
                made.setdefault(name, f"{declared}: {variable} of {server.name} lists {name}")
    for source, target in server.mounts:
        if target.startswith(INIT_DIRECTORY) and source.startswith("/"):
            for script in _scripts(Path(source)):
                for name in _created_databases(script):
                    made.setdefault(name, f"{shown(script, root)} creates {name}")
    return made


def databases_stated(server: Container, root: Path) -> dict[str, str]:
    """Return the databases that a server creates, without an unstated default beside others."""
    made = databases_created(server, root)
    if _states_database(server) or len(made) < 2:
        return made
    return {name: place for name, place in made.items() if name != server.database}


def _states_database(server: Container) -> bool:
    return any(name in server.environment for name in DATABASE_VARIABLES)


def _scripts(path: Path) -> list[Path]:
    # The path may not exist, or may not be readable.
    inside = path.glob("*") if is_directory(path) else [path]
    return sorted(script for script in inside if script.suffix in SCRIPTS and is_file(script))


def _created_databases(script: Path) -> list[str]:
    text = text_of(script)
    found = [quoted or plain for quoted, plain in _CREATE.findall(text)]
    return found + _CREATEDB.findall(text)


def database_sightings(sources: Sources) -> dict[str, str]:
    """Return the databases that the service's own sources name, each with its first place."""
    named = [(url.value.database, url.place) for url in sources.urls if url.own]
    named += [(database.value, database.place) for database in sources.databases if database.own]
    places: dict[str, str] = {}
    for name, place in named:
        if name:
            places.setdefault(name, place)
    return places


def find_database(
    reading: Reading, server: Container | None, root: Path, *, shared: bool
) -> Sighting[str] | None:
    """Return the database of a service; `None` if it cannot be determined.

    Args:
        server: The server of the database; `None` if it is not known.
        root: The directory that paths are shown relative to.
        shared: Whether other services use this server.
    """
    named = database_sightings(reading.sources)
    only_named = [Sighting(value=n, place=p) for n, p in named.items()] if len(named) == 1 else []
    if server is None:
        return only_named[0] if only_named else None
    if stated := _database_of_urls(reading, server):
        return stated
    made = databases_created(server, root)
    meant = databases_stated(server, root)
    alike = _alike(reading, meant) if len(made) > 1 else []
    fitting = [*({*named} & {*made})] or alike
    if len(fitting) == 1:
        name = fitting[0]
        return Sighting(value=name, place=made[name])
    # The unstated default database of an image belongs to no service that names another.
    if not shared and server.database and (_states_database(server) or not named):
        return Sighting(value=server.database, place=made[server.database])
    return only_named[0] if only_named else None


def _database_of_urls(reading: Reading, server: Container) -> Sighting[str] | None:
    """Return the database of a URL that resolves to this server; `None` without such a URL."""
    databases = [
        database
        for database in reading.containers.databases
        if database.server == server.name and database.database
    ]
    if databases:
        first = min(databases, key=lambda database: not database.is_main)
        return Sighting(value=first.database, place=first.place)
    hosts = {server.name, server.container_name} - {""}
    for seen in reading.sources.urls:
        url = seen.value
        here = url.host in hosts or (url.is_local and url.port and url.port == server.port)
        if seen.own and here and url.database:
            return Sighting(value=url.database, place=seen.place)
    return None


def _alike(reading: Reading, made: Mapping[str, str]) -> list[str]:
    """Return the databases named like the service, or else those whose name ends with it."""
    prefix = common_prefix(made)
    own = stem(telling_name(reading.directory))
    named = {name: stem(name, prefix) for name in made}
    same = [name for name, name_words in named.items() if likeness(own, name_words) == 1.0]
    return same or [
        name for name, name_words in named.items() if own and name_words[-len(own) :] == own
    ]
