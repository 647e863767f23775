"""A Flask application with migrations of Flask-Migrate, in a virtual environment of its own."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.packaging.installations import Installation, cases, new_installation, run
from tests.support.monorepo import Monorepo, clean_environment, empty_monorepo, free_ports
from tests.support.postgres import ask

DIRECTORY = "services/orders"
APPLICATION = """\
import os

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

db = SQLAlchemy()


class Order(db.Model):
    id = db.Column(db.Integer, primary_key=True)


def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["SHOP_DB_URL"]
    db.init_app(app)
    Migrate(app, db)
    return app
"""
REVISION = """\
import sqlalchemy as sa
from alembic import op
from flask import current_app

revision = "a1"
down_revision = None


def upgrade():
    op.create_table(current_app.name, sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    pass
"""
COMPOSE = """\
services:
  orders_db:
    image: postgres:15
    environment: { POSTGRES_USER: orders, POSTGRES_PASSWORD: orders, POSTGRES_DB: orders }
    ports: ["PORT:5432"]
"""


@pytest.fixture(scope="module")
def flask() -> Iterator[Installation]:
    newest, *_ = cases(every=False)
    with new_installation(newest, "flask-migrate", "psycopg[binary]") as made:
        yield made


@pytest.fixture(scope="module")
def shop(flask: Installation) -> Iterator[Monorepo]:
    with empty_monorepo("shop") as monorepo:
        run("git", "init", "--quiet", cwd=monorepo.root)
        monorepo.write(".gitignore", ".venv\n.env\n")
        monorepo.write(f"{DIRECTORY}/orders/__init__.py", APPLICATION)
        monorepo.path(f"{DIRECTORY}/.venv").symlink_to(flask.directory)
        subprocess.run(
            [flask.python, "-m", "flask", "--app", "orders:create_app", "db", "init"],
            cwd=monorepo.path(DIRECTORY),
            env={
                **clean_environment(),
                "SHOP_DB_URL": "postgresql+psycopg://o:o@localhost/o",
            },
            check=True,
            capture_output=True,
        )
        monorepo.write(f"{DIRECTORY}/migrations/versions/a1.py", REVISION)
        (port,) = free_ports(1)
        monorepo.write("compose.yaml", COMPOSE.replace("PORT", str(port)))
        yield monorepo


@pytest.fixture(scope="module")
def discovered(shop: Monorepo) -> Monorepo:
    found = shop.invoke("services.discover")
    assert found.code == 0, found.out + found.err
    return shop


def test_discovery_finds_application_variable_driver_and_interpreter(discovered: Monorepo) -> None:
    (entry,) = discovered.services
    found = {
        "alembic_config": "migrations/alembic.ini",
        "flask_app": "orders:create_app",
        "python": ".venv/bin/python",
        "url_scheme": "postgresql+psycopg",
        "url_variable": "SHOP_DB_URL",
    }
    assert found.items() <= entry.items(), entry


def test_services_check_loads_the_application(discovered: Monorepo) -> None:
    checked = discovered.invoke("services.check", "--json")
    assert checked.code == 0, checked.out
    assert checked.json["services"][0]["env.py"] == "follows"


def test_env_py_and_revisions_run_in_the_context_of_the_application(discovered: Monorepo) -> None:
    made = discovered.invoke("db.reset", "--json")
    assert made.code == 0, made.out
    (entry,) = discovered.services
    url = discovered.url(entry["name"], database=entry["database"])
    assert ask(url, "SELECT to_regclass('orders') IS NOT NULL") == [(True,)]
    status = discovered.invoke("db.status", "--check", "--json")
    assert (status.code, status.json["services"][0]["current"]) == (0, "a1")
    again = discovered.invoke("db.reset", "--json")
    assert again.json["services"][0]["detail"] == "copied"


def test_a_new_revision_is_written_in_the_context_of_the_application(discovered: Monorepo) -> None:
    mako = f"{DIRECTORY}/migrations/script.py.mako"
    plain = discovered.read(mako)
    # As the template for several databases does.
    discovered.write(mako, f"<% from flask import current_app %># ${{current_app.name}}\n{plain}")
    ran = discovered.invoke("db.revision", "-m", "add orders", "--json")
    discovered.write(mako, plain)
    assert ran.code == 0, ran.out
    (revision,) = ran.json["services"][0]["revisions"]
    path = discovered.path(revision["path"])
    assert 'CREATE TABLE "order"' in revision["sql"]
    assert path.read_text().startswith("# orders")
    path.unlink()


@pytest.mark.parametrize("location", ["", "script_location = migrations\n"])
def test_the_error_without_the_application_names_the_registry_field(
    discovered: Monorepo, location: str
) -> None:
    ini, kept = f"{DIRECTORY}/migrations/alembic.ini", discovered.read("services.json")
    plain = discovered.read(ini)
    document = json.loads(kept)
    del document["services"][0]["flask_app"]
    discovered.write("services.json", json.dumps(document))
    discovered.write(ini, plain.replace("[alembic]\n", f"[alembic]\n{location}"))
    failed = discovered.invoke("db.reset", "--json")
    discovered.write("services.json", kept)
    discovered.write(ini, plain)
    assert failed.code == 1
    assert '"flask_app": "package:create_app"' in failed.json["services"][0]["hint"]
