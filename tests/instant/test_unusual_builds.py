"""What migrations and seeds may do besides: each ends in a right copy, or in none with its reason.

Each service is a case of its own, so that one reset makes them all.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.db_runs import without_initdb
from tests.support.instant import COPIED, REBUILT, Reset, maintain, reset, resets
from tests.support.monorepo import ENV_PY, Monorepo, new_monorepo
from tests.support.observe import notes
from tests.support.postgres import ask

SEEDS = "database/seed-scripts"
NO_TEMPLATE = "rebuilt: no template yet; no template kept: "
PATHS = "from pathlib import Path\nROOT = Path(__file__).parents[2]\n"
NOTES = """\

async def seed(connection):
    for number, text in enumerate(texts()):
        await connection.execute("INSERT INTO note VALUES ($1, $2)", number, text)
"""
# The seed of each service.
GLOBS = "def texts(): return sorted(p.read_text() for p in ROOT.joinpath('{}').glob('*.csv'))\n"
TRIES = """
def texts():
    try:
        return [open(ROOT / 'optional.txt').read()]
    except OSError:
        return ['nothing']
"""
SCRATCH = """
import tempfile
def texts():
    with tempfile.NamedTemporaryFile('w', delete=False) as made:
        made.write('scratch')
    text = Path(made.name).read_text()
    Path(made.name).unlink()
    return [text]
"""
ARCHIVE = """
import sys
sys.path.insert(0, str(ROOT / 'tools/texts.zip'))
def texts():
    import zipped
    return [zipped.TEXT]
"""
ASKS = """
import subprocess
def texts():
    return [subprocess.check_output(['cat', str(ROOT / 'asked.txt')], text=True)]
"""
SQLITE = """
import sqlite3
def texts():
    with sqlite3.connect(ROOT / 'reference.db') as reference:
        return [text for (text,) in reference.execute('SELECT text FROM note ORDER BY text')]
"""
# Statements at the beginning of an env.py.
TRIES_ANOTHER = """\
import sqlalchemy as _sa
try:
    _sa.create_engine("postgresql+psycopg://localhost:1/huleedu_attempts").connect()
except Exception:
    pass
"""
SENDS_EVENTS = "import sys; sys.audit('open', 'x'); sys.audit('subprocess.Popen', 1)\n"
ROLE = (
    "DROP ROLE IF EXISTS app_reader",
    "CREATE ROLE app_reader",
    "GRANT SELECT ON note TO app_reader",
)
SEED_OF = {
    "beside": GLOBS.format(SEEDS),
    "atroot": GLOBS.format("."),
    "optional": TRIES,
    "scratch": SCRATCH,
    "archive": ARCHIVE,
    "program": ASKS,
    "sqlite": SQLITE,
}
NAMES = (*SEED_OF, "roles", "setting", "attempts", "events", "logs", "odd")


def write_archive(made: Monorepo, text: str) -> None:
    import zipfile

    made.path("tools").mkdir(exist_ok=True)
    with zipfile.ZipFile(made.path("tools/texts.zip"), "w") as archive:
        archive.writestr("zipped.py", f"TEXT = {text!r}\n")


def write_reference(made: Monorepo, text: str) -> None:
    import sqlite3

    with sqlite3.connect(made.path("reference.db")) as reference:
        reference.execute("CREATE TABLE IF NOT EXISTS note (text)")
        reference.execute("INSERT INTO note VALUES (?)", [text])
    reference.close()


@pytest.fixture(scope="module")
def made() -> Iterator[Monorepo]:
    with new_monorepo(NAMES) as made:
        without_initdb(made)
        for name, texts in SEED_OF.items():
            made.write(f"{SEEDS}/seed_{name}.py", f"{PATHS}{texts}{NOTES}")
        made.write(f"{SEEDS}/first.csv", "first")
        made.write("first.csv", "first")
        made.write("asked.txt", "asked")
        write_archive(made, "zipped")
        write_reference(made, "first")
        made.add_revision("roles", "b2", "a1", *ROLE)
        database = "ALTER DATABASE huleedu_setting SET temp_tablespaces = 'nowhere'"
        made.add_revision("setting", "b2", "a1", database)
        for name, first in (("attempts", TRIES_ANOTHER), ("events", SENDS_EVENTS)):
            made.write(f"services/{name}_service/alembic/env.py", f"{first}{ENV_PY}")
        log = "import time; open('config.txt', 'w').write(str(time.time_ns()))\n"
        made.write("services/logs_service/alembic/env.py", f"{log}{ENV_PY}")
        odd = os.fsencode(made.path("services/odd_service")) + b"/\xff.txt"
        Path(os.fsdecode(odd)).write_text("text")
        how = {name: done.how for name, done in resets(made).items()}
        made.write("tools/how.json", json.dumps(how))
        yield made


def how(made: Monorepo, name: str) -> str:
    told: dict[str, str] = json.loads(made.read("tools/how.json"))
    return told[name]


@pytest.mark.parametrize(
    ("name", "edit", "text"),
    [
        ("beside", lambda m: m.write(f"{SEEDS}/second.csv", "second"), "first second"),
        ("atroot", lambda m: m.write("second.csv", "second"), "first second"),
        ("optional", lambda m: m.write("optional.txt", "there"), "there"),
        ("archive", lambda m: write_archive(m, "packed"), "packed"),
        ("sqlite", lambda m: write_reference(m, "second"), "first second"),
    ],
)
def test_a_file_that_a_seed_finds_is_an_input(
    made: Monorepo, name: str, edit: Callable[[Monorepo], object], text: str
) -> None:
    assert how(made, name) == "rebuilt: no template yet"
    assert reset(made, name) == Reset(COPIED, COPIED)
    edit(made)
    assert reset(made, name).detail == REBUILT
    assert notes(made, name) == text


def test_events_that_are_no_inputs_do_not_prevent_a_template(made: Monorepo) -> None:
    names = ["scratch", "events", "odd", "attempts"]
    assert {how(made, name) for name in names} == {"rebuilt: no template yet"}
    assert resets(made, *names) == dict.fromkeys(names, Reset(COPIED, COPIED))


def test_a_seed_that_starts_a_program_is_applied_by_every_reset(made: Monorepo) -> None:
    assert how(made, "program") == f"{NO_TEMPLATE}it started cat, which may read anything"
    made.write("asked.txt", "changed")
    assert reset(made, "program").detail == REBUILT
    assert notes(made, "program") == "changed"


def test_templates_do_not_prevent_a_migration_from_recreating_a_role(
    made: Monorepo,
) -> None:
    assert reset(made, "roles").detail == COPIED
    assert reset(made, "roles", "--fresh").detail == REBUILT
    assert reset(made, "roles").detail == COPIED
    granted = "SELECT has_table_privilege('app_reader', 'note', 'SELECT')"
    assert ask(made.url("roles"), granted) == [(True,)]


def test_a_database_that_cannot_be_copied_is_complete(made: Monorepo) -> None:
    assert how(made, "setting").startswith(f"{NO_TEMPLATE}it could not be copied: ")
    assert "nowhere" in how(made, "setting")
    assert notes(made, "setting") == "first second"
    left = "SELECT datname FROM pg_database WHERE datname LIKE 'huleedu_setting__made%'"
    assert maintain(made, "setting", left) == []


def test_a_file_that_every_build_writes_is_named(made: Monorepo) -> None:
    file = "services/logs_service/config.txt"
    assert how(made, "logs") == f"{NO_TEMPLATE}{file} changed during the build"
