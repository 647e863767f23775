"""Services whose Alembic histories share one database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.db_runs import without_initdb
from tests.support.monorepo import ENV_PY, REVISION, Monorepo, empty_monorepo, free_ports

DATABASE = "shop"
CONFIGURED = "context.configure(connection=connection)"


def add_history(monorepo: Monorepo, name: str, options: str = "", **stated: Any) -> None:
    """Add a service whose history is in the database `shop`.

    Args:
        options: What `env.py` passes to `context.configure` besides the connection.
    """
    entries = monorepo.services if monorepo.path("services.json").exists() else []
    port = entries[0]["port"] if entries else free_ports(1)[0]
    shared = {"database": DATABASE, "shared_database": True, "compose_service": "shop_db"}
    monorepo.add_service(name, port, **{**shared, **stated})
    configured = CONFIGURED.replace(")", f", {options})") if options else CONFIGURED
    env_py = ENV_PY.replace(CONFIGURED, configured)
    monorepo.write(f"services/{name}_service/alembic/env.py", env_py)


def write_revision(
    monorepo: Monorepo, name: str, revision: str, parent: str | None, *statements: str
) -> None:
    """Write a revision of a service."""
    upgrade = "\n".join(f"    op.execute({statement!r})" for statement in statements) or "    pass"
    text = REVISION.format(message=revision, id=revision, parent=parent, upgrade=upgrade)
    monorepo.write(f"services/{name}_service/alembic/versions/{revision}.py", text)


def write_seed(monorepo: Monorepo, name: str, statement: str) -> None:
    """Add a seed with one SQL statement to a service."""
    monorepo.path(f"database/seed-scripts/seed_{name}.py").unlink(missing_ok=True)
    monorepo.write(f"database/seed-scripts/seed_{name}.sql", f"{statement};\n")


@contextmanager
def root_and_two() -> Iterator[Monorepo]:
    """Make a root history and two in schemas that it creates, stated before it.

    The ids of their revisions are the same.
    """
    with empty_monorepo() as monorepo:
        without_initdb(monorepo)
        for name in ("orders", "stock"):
            add_history(
                monorepo,
                name,
                f'version_table="{name}_version", version_table_schema="{name}"',
                migrate_after=["root"],
            )
            write_revision(
                monorepo, name, "a1", None, f"CREATE TABLE {name}.item (id integer PRIMARY KEY)"
            )
            write_seed(monorepo, name, f"INSERT INTO {name}.item VALUES (1) ON CONFLICT DO NOTHING")
        add_history(monorepo, "root")
        write_revision(monorepo, "root", "a1", None, "CREATE SCHEMA orders", "CREATE SCHEMA stock")
        write_revision(monorepo, "root", "a2", "a1", "CREATE TABLE tenant (id integer PRIMARY KEY)")
        write_seed(monorepo, "root", "INSERT INTO tenant VALUES (7) ON CONFLICT DO NOTHING")
        yield monorepo
