"""After one changed input, a reset gives the result of a rebuild.

For more of them: `pytest tests/instant/test_one_change.py -n 0 --rounds 10`.
"""

import os
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.db_runs import without_initdb
from tests.support.instant import COPIED, maintain, resets
from tests.support.monorepo import Monorepo, new_monorepo
from tests.support.postgres import ask

NAMES = ("a", "b", "c", "d", "e", "f")
REVISION = """\
import os
import sys
from pathlib import Path

from alembic import op

revision = "a1"
down_revision = None
HERE = Path(__file__).parents[4] / "data/{name}"


def seen():
    {code}


def upgrade():
    op.execute("CREATE TABLE note (id integer PRIMARY KEY, text text NOT NULL)")
    table = "CREATE TABLE seen (text text DEFAULT '" + str(seen()).replace("'", "''") + "')"
    op.execute(table)
    op.execute("INSERT INTO seen DEFAULT VALUES")
"""
# For an input that a seed reads instead of the revision.
TABLES = """\
from alembic import op

revision = "a1"
down_revision = None


def upgrade():
    op.execute("CREATE TABLE note (id integer PRIMARY KEY, text text NOT NULL)")
    op.execute("CREATE TABLE seen (text text)")
"""
SEED = """\
import os
import sys
from pathlib import Path

HERE = Path(__file__).parents[2] / "data/{name}"


def seen():
    {code}


async def seed(connection):
    await connection.execute("INSERT INTO seen VALUES ($1)", str(seen()))
"""
NO_SEED = "async def seed(connection): pass\n"
SHARE_OF_SEEDS = 0.5
LONG_AGO = 1_700_000_000
Environment = Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """The directory and the server that one service's revision reads.

    Attributes:
        name: The service's name.
    """

    monorepo: Monorepo
    name: str

    @property
    def path(self) -> Path:
        return self.monorepo.path(f"data/{self.name}")

    def write(self, relative: str, text: str) -> None:
        path = self.path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        # An edit may leave size and modification time unchanged.
        os.utime(path, (LONG_AGO, LONG_AGO))

    def link(self, relative: str, target: str) -> None:
        path = self.path / relative
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    def ask_server(self, statement: str) -> None:
        maintain(self.monorepo, self.name, statement)

    def seen(self) -> str:
        """Return what the revision has read."""
        ((text,),) = ask(self.monorepo.url(self.name), "SELECT text FROM seen")
        return str(text)


@dataclass(frozen=True)
class Input:
    """An input that a revision or a seed reads.

    Attributes:
        code: The code that reads it.
        give: Writes its first (1) or second (2) value, and returns variables to set.
    """

    code: str
    give: Callable[[Place, int], Environment | None]


def _rows(place: Place, number: int) -> None:
    place.write("rows.txt", str(number))


def _versions(place: Place, number: int) -> None:
    for version in (1, 2):
        place.write(f"v{version}/rows.txt", str(version))
    place.link("now", f"v{number}")


def _absent(path: str) -> Callable[[Place, int], None]:
    def give(place: Place, number: int) -> None:
        place.path.mkdir(parents=True, exist_ok=True)
        (place.path / path).unlink(missing_ok=True)
        if number == 2:
            place.write(path, "N = 2\n")

    return give


def _variable(name: str, first: str, then: str) -> Callable[[Place, int], Environment]:
    return lambda place, number: {name: first if number == 1 else then}


def _shadow(place: Place, number: int) -> None:
    place.write("last/shared.py", "N = 1\n")
    _absent("first/shared.py")(place, number)


def _package(place: Place, number: int) -> None:
    place.write("package/__init__.py", "")
    _absent("package/local.py")(place, number)


def _module(place: Place, number: int) -> None:
    place.write("last/shared.py", f"N = {number}\n")


def _python_path(place: Place, number: int) -> Environment:
    for version in (1, 2):
        place.write(f"v{version}/of_the_path.py", f"N = {version}\n")
    return {"PYTHONPATH": str(place.path / f"v{number}")}


def _sqlite(place: Place, number: int) -> None:
    place.path.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(place.path / "reference.db") as reference:
        reference.execute("CREATE TABLE IF NOT EXISTS note (n)")
        reference.execute("DELETE FROM note")
        reference.execute("INSERT INTO note VALUES (?)", [number])
    reference.close()


def _role(place: Place, number: int) -> None:
    place.ask_server("DROP ROLE IF EXISTS of_a_hand")
    if number == 2:
        place.ask_server("CREATE ROLE of_a_hand")


def _statement(first: str, then: str) -> Callable[[Place, int], None]:
    return lambda place, number: place.ask_server(first if number == 1 else then)


ASKS = "return op.get_bind().exec_driver_sql({!r}).scalar()"
IMPORTS = "sys.path[:0] = [str(HERE / 'first'), str(HERE / 'last')]; import shared; return shared.N"
INPUTS = {
    "a file": Input("return (HERE / 'rows.txt').read_text()", _rows),
    "a descriptor": Input("return os.read(os.open(HERE / 'rows.txt', os.O_RDONLY), 9)", _rows),
    "a directory's descriptor": Input(
        "return os.read(os.open('rows.txt', os.O_RDONLY, dir_fd=os.open(HERE, os.O_RDONLY)), 9)",
        _rows,
    ),
    "a working directory": Input("os.chdir(HERE); return open('rows.txt').read()", _rows),
    "a database of SQLite": Input(
        "import sqlite3; uri = f'file:{HERE}/reference.db?mode=ro'; "
        "return sqlite3.connect(uri, uri=True).execute('SELECT n FROM note').fetchall()",
        _sqlite,
    ),
    "a listing": Input("return sorted(os.listdir(HERE))", _absent("other.log")),
    "a walk": Input("return sorted(map(str, os.walk(HERE)))", _absent(".hidden")),
    "an absent file": Input("return (HERE / 'local.toml').exists()", _absent("local.toml")),
    "an access": Input("return os.access(HERE / 'local.toml', os.R_OK)", _absent("local.toml")),
    "a link": Input("return (HERE / 'now/rows.txt').read_text()", _versions),
    "a resolved link": Input(
        "return (HERE / 'now').resolve().joinpath('rows.txt').read_text()", _versions
    ),
    "a link's target": Input("return os.readlink(HERE / 'now')", _versions),
    "a linked working directory": Input(
        "os.chdir(HERE / 'now'); return open('rows.txt').read()", _versions
    ),
    "a shadowing module": Input(IMPORTS, _shadow),
    "an edited module": Input(IMPORTS, _module),
    "an optional module": Input(
        "sys.path.insert(0, str(HERE))\n    try: from package import local; return local.N\n"
        "    except ImportError: return 0",
        _package,
    ),
    "PYTHONPATH": Input("import of_the_path; return of_the_path.N", _python_path),
    "a variable": Input("return os.environ.get('REGION')", _variable("REGION", "n", "s")),
    "bytes of a variable": Input("return os.getenvb(b'ZONE')", _variable("ZONE", "n", "s")),
    "a variable in any case": Input(
        "return {name.lower(): value for name, value in os.environ.items()}.get('tenants')",
        _variable("TENANTS", "2", "5"),
    ),
    "the time zone": Input(
        "import datetime; return datetime.datetime.fromtimestamp(0)",
        _variable("TZ", "UTC", "America/New_York"),
    ),
    "a role": Input(
        ASKS.format("SELECT count(*) FROM pg_roles WHERE rolname = 'of_a_hand'"), _role
    ),
    "a role's setting": Input(
        ASKS.format("SELECT '1 day 2 hours'::interval::text"),
        _statement(
            "ALTER ROLE CURRENT_USER RESET intervalstyle",
            "ALTER ROLE CURRENT_USER SET intervalstyle = 'iso_8601'",
        ),
    ),
    "the server's settings": Input(
        ASKS.format("SELECT '2024-01-01'::timestamptz::text"),
        _statement(
            "ALTER SYSTEM RESET datestyle",
            "ALTER SYSTEM SET datestyle = 'German'",
        ),
    ),
}


# Inputs of every service, even if no service reads them.
INPUTS_OF_EVERY_SERVICE = {"PYTHONPATH", "the time zone"}


@pytest.fixture(scope="module")
def made() -> Iterator[Monorepo]:
    with new_monorepo(NAMES, server="one_db") as made:
        without_initdb(made)
        assert made.invoke("db.up").code == 0
        yield made


def test_after_one_change_a_reset_gives_the_result_of_a_rebuild(
    made: Monorepo, rounds: int
) -> None:
    for number in range(rounds):
        drawn = random.Random(number)
        chosen = drawn.sample(sorted(INPUTS.keys() - INPUTS_OF_EVERY_SERVICE), len(NAMES))
        _check(made, dict(zip(NAMES, chosen, strict=True)), drawn)


def test_after_a_change_for_the_interpreter_a_reset_gives_the_result_of_a_rebuild(
    made: Monorepo, rounds: int
) -> None:
    for number in range(rounds):
        chosen = sorted(INPUTS_OF_EVERY_SERVICE)[number % len(INPUTS_OF_EVERY_SERVICE)]
        _check(made, {NAMES[0]: chosen}, random.Random(number))


def _check(made: Monorepo, inputs: Mapping[str, str], drawn: random.Random) -> None:
    """Build each service with an input, change the input, and compare a reset with a rebuild."""
    first = _write_input(made, inputs, 1)
    for name, chosen in inputs.items():
        _write_reader(made, name, INPUTS[chosen].code, drawn)
    resets(made, *inputs, env=first)
    assert {done.detail for done in resets(made, *inputs, env=first).values()} == {COPIED}, inputs
    before = _seen(made, inputs)
    then = _write_input(made, inputs, 2)
    resets(made, *inputs, env=then)
    by_template = _seen(made, inputs)
    resets(made, *inputs, flags=("--fresh",), env=then)
    by_rebuild = _seen(made, inputs)
    assert by_template == by_rebuild
    # Each change must have an effect.
    assert not set(before.items()) & set(by_rebuild.items())
    _write_input(made, inputs, 1)


def _write_reader(made: Monorepo, name: str, code: str, drawn: random.Random) -> None:
    """Write a revision or a seed that reads an input; code with `op` must be in a revision."""
    is_seed = "op." not in code and drawn.random() < SHARE_OF_SEEDS
    revision = TABLES if is_seed else REVISION.format(name=name, code=code)
    made.write(f"services/{name}_service/alembic/versions/a1.py", revision)
    seed = SEED.format(name=name, code=code) if is_seed else NO_SEED
    made.write(f"database/seed-scripts/seed_{name}.py", seed)


def _write_input(made: Monorepo, inputs: Mapping[str, str], number: int) -> Environment:
    """Write the first or second value of each service's input; return the variables to set."""
    variables: dict[str, str] = {}
    for name, chosen in inputs.items():
        variables |= INPUTS[chosen].give(Place(made, name), number) or {}
    for name in inputs:
        maintain(made, name, "SELECT pg_reload_conf()")
    return variables


def _seen(made: Monorepo, inputs: Mapping[str, str]) -> dict[str, str]:
    return {chosen: Place(made, name).seen() for name, chosen in inputs.items()}
