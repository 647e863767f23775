"""Resets seen from outside: by a template or a rebuild, and the templates on a server."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.monorepo import Monorepo
from tests.support.postgres import Row, ask

REBUILT = "migrated, seeded"
COPIED = "copied"
TAG = "huleedu-tasks "


@dataclass(frozen=True)
class Reset:
    """The result of one reset for a service.

    Attributes:
        detail: The detail of its outcome.
        how: How it was done, as `db.status` reports; None if that was not recorded.
    """

    detail: str
    how: str | None


def reset(
    monorepo: Monorepo, name: str = "alpha", *flags: str, env: Mapping[str, str] | None = None
) -> Reset:
    """Reset one service, and return how it was done."""
    return resets(monorepo, name, flags=flags, env=env)[name]


def resets(
    monorepo: Monorepo,
    *names: str,
    flags: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
) -> dict[str, Reset]:
    """Reset services, or all, and return how it was done."""
    chosen = [part for name in names for part in ("--service", name)]
    command = ["db.reset", "--json", *flags, *chosen, "db.status", "--json", *chosen]
    ran = monorepo.invoke(*command, env=env)
    assert ran.code == 0, ran.out + ran.err
    done, status = documents(ran.out)
    assert {row["status"] for row in (*done["services"], *status["services"])} == {"OK"}
    assert {row["pending"] for row in status["services"]} == {0}
    return {
        row["service"]: Reset(row["detail"], asked["reset"])
        for row, asked in zip(done["services"], status["services"], strict=True)
    }


def documents(text: str) -> list[Any]:
    """Return all JSON documents in a string, in order."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def maintain(monorepo: Monorepo, name: str, *statements: str) -> list[Row]:
    """Run statements on a service's server, beside its databases."""
    return ask(monorepo.url(name, database="postgres"), *statements)


def templates(monorepo: Monorepo, name: str = "alpha") -> list[str]:
    """Return a service's templates on its server, newest first."""
    sql = "SELECT datname FROM pg_database WHERE starts_with(datname, '{}') ORDER BY oid DESC"
    return [name for (name,) in maintain(monorepo, name, sql.format(f"huleedu_{name}__made_"))]


def tag_of(monorepo: Monorepo, name: str, database: str) -> dict[str, Any]:
    """Return the environment tag of a database."""
    sql = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{}'"
    ((comment,),) = maintain(monorepo, name, sql.format(database))
    stated: dict[str, Any] = json.loads(comment.partition(TAG)[2])
    return stated


def amend(monorepo: Monorepo, **stated: Mapping[str, Any]) -> None:
    """Add fields to services in the registry."""
    monorepo.register(*({**entry, **stated.get(entry["name"], {})} for entry in monorepo.services))
