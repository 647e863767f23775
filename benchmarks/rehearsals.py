"""The row about `invoke migrations.test`, compared with pytest-alembic."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import run
from benchmarks.measure import Side
from benchmarks.monorepo import USER, Monorepo, empty_monorepo, free_ports, register
from benchmarks.table import Line
from benchmarks.tools import installed_tools

SERVICE = "history"
REVISIONS = 100
PEER = "pytest-alembic"
VARIABLE = "HISTORY_SERVICE_DATABASE_URL"
FILES = {
    "alembic.ini": "[alembic]\nscript_location = alembic\npath_separator = os\n",
    "alembic/env.py": f"""\
import os

from alembic import context
from sqlalchemy import MetaData, create_engine

url = os.environ["{VARIABLE}"].replace("+asyncpg", "+psycopg2")
engine = context.config.attributes.get("connection") or create_engine(url)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=MetaData())
    with context.begin_transaction():
        context.run_migrations()
""",
    "test_revisions.py": f"""\
import os

import pytest
from pytest_alembic.tests import test_up_down_consistency
from pytest_alembic.tests.experimental import test_downgrade_leaves_no_trace
from sqlalchemy import create_engine


@pytest.fixture
def alembic_engine():
    engine = create_engine(os.environ["{VARIABLE}"].replace("+asyncpg", "+psycopg2"))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return engine
""",
}
REVISION = """\
import sqlalchemy as sa
from alembic import op

revision = {id!r}
down_revision = {parent!r}


def upgrade():
    {upgrade}


def downgrade():
    {downgrade}
"""
# What each five revisions do to a table of their own.
CHANGES = (
    (
        "op.create_table({t!r}, sa.Column('id', sa.Integer, primary_key=True),"
        " sa.Column('name', sa.String(50), nullable=False))",
        "op.drop_table({t!r})",
    ),
    (
        "op.add_column({t!r}, sa.Column('amount', sa.Numeric(10, 2)))",
        "op.drop_column({t!r}, 'amount')",
    ),
    ("op.create_index('ix_{t}', {t!r}, ['name'])", "op.drop_index('ix_{t}')"),
    (
        "op.create_check_constraint('ck_{t}', {t!r}, 'amount > 0')",
        "op.drop_constraint('ck_{t}', {t!r})",
    ),
    (
        "op.create_unique_constraint('uq_{t}', {t!r}, ['name'])",
        "op.drop_constraint('uq_{t}', {t!r})",
    ),
)


def rehearsal(bench: Bench) -> Iterator[Line]:
    """Apply, undo and apply again 100 revisions of one service."""
    python = str(installed_tools(bench).programs / "python")
    (port,) = free_ports(1)
    with empty_monorepo(bench.scratch, "rehearsal", HULEEDU_PROVIDER="embedded") as monorepo:
        service = _add_service(monorepo, port)
        # The server that pytest-alembic uses.
        monorepo.invoke("db.up")
        login = f"{USER}:{monorepo.password}"
        url = f"postgresql+asyncpg://{login}@localhost:{port}/huleedu_{SERVICE}"
        ours, peer = bench.measure_few(
            Side(run=lambda: monorepo.invoke("migrations.test")),
            Side(
                run=lambda: run(
                    [python, "-m", "pytest", "-q"], cwd=service, environment={VARIABLE: url}
                )
            ),
        )
    yield Line(
        row="rehearsal",
        measured=f"`invoke migrations.test` of {REVISIONS} revisions",
        timing=ours,
        beside=f"two tests of {PEER} on the same revisions",
        beside_timing=peer,
        compared=f"{peer.median / ours.median:.1f} times as fast",
        notes="test_up_down_consistency and test_downgrade_leaves_no_trace",
    )


def _add_service(monorepo: Monorepo, port: int) -> Path:
    """Write the service and its revisions, and return its directory."""
    register(monorepo.root, [{"name": SERVICE, "port": port}])
    service = monorepo.root / f"services/{SERVICE}_service"
    (service / "alembic/versions").mkdir(parents=True)
    for file, text in FILES.items():
        (service / file).write_text(text, encoding="utf-8")
    for number in range(REVISIONS):
        table, change = divmod(number, len(CHANGES))
        upgrade, downgrade = (text.format(t=f"t{table}") for text in CHANGES[change])
        text = REVISION.format(
            id=f"r{number:03}",
            parent=f"r{number - 1:03}" if number else None,
            upgrade=upgrade,
            downgrade=downgrade,
        )
        (service / f"alembic/versions/r{number:03}.py").write_text(text, encoding="utf-8")
    return service
