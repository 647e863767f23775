"""Combines irregularities: a single one, many at random, or thirteen known services."""

import random
from collections.abc import Iterator
from dataclasses import Field, fields, replace
from enum import StrEnum
from typing import Any

from tests.support.strangers.switches import (
    AlembicConfig,
    ComposeFiles,
    ComposeNames,
    Config,
    DatabaseName,
    Driver,
    EnvironmentVariable,
    Folder,
    History,
    Interpreter,
    Override,
    Password,
    Paths,
    Ports,
    Repository,
    Stranger,
)

NAMES = (
    "batch_conductor",
    "class_roster",
    "essay_intake",
    "file_vault",
    "grade_book",
    "login_gate",
    "mail_out",
    "note_taker",
    "orders",
    "payment_ledger",
    "quiz_maker",
    "room_planner",
    "spell_checker",
    "time_table",
    "user_profile",
    "video_store",
)
STRANGE_DIRECTORY = "Högre skola 2"
STRANGE_REGISTRY = "tools/db/services.json"
# The values of switches that are neither booleans nor enumerations.
CHOICES: dict[str, tuple[object, ...]] = {
    "folder": ("repo", STRANGE_DIRECTORY),
    "registry": ("services.json", STRANGE_REGISTRY),
    "sharing": (0, 2, 3),
    "containers": (0, 1, 2),
}
# The share of irregular switches of a random service.
SHARE = 0.4


def singles() -> Iterator[tuple[str, Stranger]]:
    """Yield the name of each irregularity, with a service that has only this one."""
    yield "regular", Stranger()
    for field in _switches(Stranger):
        for value in _values(field)[1:]:
            stated = {field.name: value}
            if field.name == "translates":
                stated["driver"] = Driver.PSYCOPG
            name = value.name if isinstance(value, StrEnum) else ""
            yield f"{field.name} {name}".strip(), Stranger(**stated)


def named(services: list[Stranger]) -> tuple[Stranger, ...]:
    """Give the services unique names."""
    named = zip(services, NAMES, strict=False)
    return tuple(replace(service, name=name) for service, name in named)


def combination(number: int, count: int = 5) -> Repository:
    """Return a random monorepo; the number is the seed."""
    chosen = random.Random(number)
    services = named([_any_service(chosen) for _ in range(count)])
    stated = {
        field.name: chosen.choice(CHOICES.get(field.name) or _values(field))
        for field in _switches(Repository)
    }
    return Repository(services=_told_apart(services), **stated)


def thirteen() -> Repository:
    """Return thirteen services with the conventions of several teams."""
    services = (
        Stranger(name="class_roster"),
        Stranger(name="batch_conductor", override=Override.INITIALS, paths=Paths.ROOT, logs=True),
        Stranger(
            name="essay_intake",
            folder=Folder.HYPHENS,
            config=Config.PYDANTIC_ALIAS,
            interpolates=True,
            shadows=True,
        ),
        Stranger(
            name="grade_book",
            folder=Folder.APPS,
            database_name=DatabaseName.BARE,
            config=Config.PYDANTIC_PREFIX,
            driver=Driver.PSYCOPG,
        ),
        Stranger(
            name="payment_ledger",
            folder=Folder.BACKEND,
            database_name=DatabaseName.LONG,
            override=Override.DSN,
            config=Config.MODULE,
            driver=Driver.PSYCOPG2,
            interpreter=Interpreter.OWN_ALEMBIC,
            history=History.CONCURRENT_INDEX,
            transaction_each=True,
        ),
        Stranger(
            name="login_gate",
            folder=Folder.TOP,
            database_name=DatabaseName.MIXED_CASE,
            config=Config.NONE,
            override=Override.BARE,
            loads_env_file=True,
        ),
        Stranger(name="mail_out", migrations=True, alembic_config=AlembicConfig.SUBFOLDER),
        Stranger(
            name="note_taker",
            alembic_config=AlembicConfig.PYPROJECT,
            paths=Paths.SOURCES,
            is_package=True,
            interpreter=Interpreter.OWN_PYTHON,
        ),
        Stranger(
            name="quiz_maker",
            alembic_config=AlembicConfig.BOTH,
            logs=True,
            history=History.MERGED,
            environment=EnvironmentVariable.OWN,
        ),
        Stranger(
            name="room_planner",
            environment=EnvironmentVariable.BARE,
            driver=Driver.PSYCOPG2,
            translates=True,
            is_heavy=True,
        ),
        Stranger(
            name="spell_checker",
            folder=Folder.APPS,
            driver=Driver.PSYCOPG_ASYNC,
            interpreter=Interpreter.UV_PYTHON,
            history=History.SUBFOLDERS,
        ),
        Stranger(
            name="time_table",
            paths=Paths.OWN,
            loads_env_file=True,
            interpreter=Interpreter.UV_ALEMBIC,
        ),
        Stranger(name="video_store", folder=Folder.BACKEND, override=Override.INITIALS),
    )
    return Repository(
        services=services,
        folder=STRANGE_DIRECTORY,
        sharing=2,
        compose_files=ComposeFiles.INCLUDED,
        compose_names=ComposeNames.POSTGRES,
        port_style=Ports.VARIABLE,
        password=Password.SIGNS,
        containers=2,
        builds_from_root=True,
        fixed_names=True,
        lists=True,
        bystanders=True,
    )


def _any_service(chosen: random.Random) -> Stranger:
    stated = {
        field.name: chosen.choice(_values(field)[1:])
        for field in _switches(Stranger)
        if chosen.random() < SHARE
    }
    return Stranger(**stated).possible()


def _told_apart(services: tuple[Stranger, ...]) -> tuple[Stranger, ...]:
    """Let only one service use DATABASE_URL, which contains no service's name."""
    bare = [service for service in services if service.override is Override.BARE]
    return tuple(
        replace(service, override=Override.REGULAR) if service in bare[1:] else service
        for service in services
    )


def _switches(kind: type[Stranger | Repository]) -> list["Field[Any]"]:
    return [
        field
        for field in fields(kind)
        if isinstance(field.default, bool | StrEnum) or field.name in CHOICES
    ]


def _values(field: "Field[Any]") -> list[Any]:
    """Return the possible values of a switch, the regular one first."""
    regular: Any = field.default
    if isinstance(regular, bool):
        return [regular, not regular]
    return [regular, *(value for value in type(regular) if value != regular)]
