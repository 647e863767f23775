"""Seeds: applied once or twice with the same result, in order, all or nothing."""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.monorepo import PASSWORD, SEED, USER, Monorepo, Ran
from tests.support.postgres import ask

NOTES = "SELECT text FROM note ORDER BY id"
SEEDED = [("first",), ("second",)]
THIRD = "INSERT INTO note VALUES (3, 'third')"


@pytest.fixture
def school(running: Monorepo) -> Iterator[Monorepo]:
    """Three seeded services whose files a test may change."""
    kept = running.root.with_name("kept")
    shutil.copytree(running.root, kept)
    yield running
    shutil.rmtree(running.root)
    kept.rename(running.root)
    ask(running.url("alpha"), "DELETE FROM note WHERE id > 2")


def write_seed(school: Monorepo, body: str, *, name: str = "alpha", directory: str = "") -> None:
    """Write a service's seed: what is in the body of the function."""
    directory = directory or "database/seed-scripts"
    school.write(f"{directory}/seed_{name}.py", f"async def seed(connection):\n    {body}\n")


def amend(school: Monorepo, **stated: dict[str, Any]) -> None:
    """State more about services of the registry."""
    school.register(*(entry | stated.get(entry["name"], {}) for entry in school.services))


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ("raise ValueError('no such pupil')", "ValueError: no such pupil"),
        ("await connection.execute('SELECT 1/0')", "DivisionByZeroError"),
        ("import sys; sys.exit(0)", "SystemExit"),
    ],
)
def test_a_seed_that_fails_leaves_nothing_and_the_others_go_on(
    school: Monorepo, failure: str, told: str
) -> None:
    write_seed(school, f'await connection.execute("{THIRD}"); {failure}')
    ran = school.invoke("db.seed", "--json")
    assert ran.code == 1
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK", "gamma": "OK"}
    failed = ran.json["services"][0]
    assert told in failed["detail"]
    assert "seed_alpha.py" in failed["output"]
    assert ask(school.url("alpha"), NOTES) == SEEDED


def test_several_seeds_of_a_service_are_kept_together_or_not_at_all(school: Monorepo) -> None:
    school.write("seeds/one.sql", THIRD)
    school.write("seeds/two.sql", "SELECT no_such_column")
    amend(school, alpha={"seeds": ["seeds/one.sql", "seeds/two.sql"]})
    ran = school.invoke("db.seed", "--service", "alpha")
    assert ran.code == 1
    assert "two.sql" in ran.out
    assert ask(school.url("alpha"), NOTES) == SEEDED
    school.write("seeds/two.sql", "UPDATE note SET text = 'both' WHERE id = 3")
    assert school.invoke("db.seed", "--service", "alpha").code == 0
    assert ask(school.url("alpha"), NOTES) == [*SEEDED, ("both",)]


def test_a_seed_in_sql_is_taken_as_it_is(school: Monorepo) -> None:
    text = "100 % $1 :name {x} åäö"
    school.path("seed.sql").write_bytes(
        f"-- comment; with a semicolon\nINSERT INTO note VALUES (3, 'x');\r\n"
        f"DO $$BEGIN UPDATE note SET text = '{text}' WHERE id = 3; END$$;\n".encode("utf-8-sig")
    )
    amend(school, alpha={"seeds": ["seed.sql"]})
    ran = school.invoke("db.seed", "--service", "alpha")
    assert ran.code == 0, ran.out
    assert ask(school.url("alpha"), NOTES) == [*SEEDED, (text,)]


def test_a_seed_that_takes_too_long_is_ended_and_leaves_nothing(school: Monorepo) -> None:
    write_seed(school, f'await connection.execute("{THIRD}; SELECT pg_sleep(60)")')
    ran = school.invoke("db.seed", "--json", env={"HULEEDU_MIGRATION_TIMEOUT": "1"})
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK", "gamma": "OK"}
    failed = ran.json["services"][0]
    assert "longer than 1 s" in failed["detail"]
    assert "HULEEDU_MIGRATION_TIMEOUT" in failed["hint"]
    assert failed["seconds"] < 5
    assert ask(school.url("alpha"), NOTES) == SEEDED


def test_a_database_that_is_not_at_head_is_not_seeded(school: Monorepo) -> None:
    school.add_revision("alpha", "b2", "a1", "ALTER TABLE note ADD COLUMN more text")
    write_seed(school, f'await connection.execute("{THIRD}")')
    ran = school.invoke("db.seed", "--json")
    assert ran.code == 3
    assert ran.statuses["alpha"] == "FAILED"
    assert "db.migrate" in ran.json["services"][0]["hint"]
    assert ask(school.url("alpha"), NOTES) == SEEDED


@pytest.mark.parametrize(
    ("environment", "code"), [("testing", 0), ("staging", 3), ("production", 3)]
)
def test_seeds_are_for_development_and_testing_only(
    school: Monorepo, environment: str, code: int
) -> None:
    there = {"HULEEDU_ENVIRONMENT": environment}
    if code == 0:
        assert school.invoke("db.migrate", env=there).code == 0
    write_seed(school, f'await connection.execute("{THIRD}")')
    ran = school.invoke("db.seed", env=there)
    assert ran.code == code, ran.err
    assert ask(school.url("alpha"), NOTES) == SEEDED
    if code == 0:
        assert ask(school.url("alpha", database="huleedu_alpha_test"), NOTES) == [("third",)]


def test_a_service_is_seeded_after_those_it_names(school: Monorepo) -> None:
    amend(school, alpha={"seed_after": ["gamma"]}, gamma={"seed_after": ["beta"]})
    for name in ("alpha", "beta", "gamma"):
        school.write(
            f"database/seed-scripts/seed_{name}.py",
            f"""\
            from pathlib import Path

            async def seed(connection):
                with Path(__file__).with_name("order").open("a") as order:
                    print("{name} begins", file=order, flush=True)
                    await connection.execute("SELECT pg_sleep(0.02)")
                    print("{name} ends", file=order)
            """,
        )
    assert school.invoke("db.seed").code == 0
    order = school.read("database/seed-scripts/order").splitlines()
    assert order == [f"{name} {step}" for name in ("beta", "gamma", "alpha") for step in BOTH_STEPS]


BOTH_STEPS = ("begins", "ends")


def test_what_must_come_after_a_failed_seed_is_not_begun(school: Monorepo) -> None:
    amend(school, alpha={"seed_after": ["gamma"]}, gamma={"seed_after": ["beta"]})
    write_seed(school, "raise ValueError", name="beta")
    write_seed(school, f'await connection.execute("{THIRD}")')
    ran = school.invoke("db.seed", "--json")
    assert ran.code == 1
    assert ran.statuses == {"alpha": "ABORTED", "beta": "FAILED", "gamma": "ABORTED"}
    assert ask(school.url("alpha"), NOTES) == SEEDED


def test_seeds_of_two_directories_import_their_own_siblings_of_the_same_name(
    school: Monorepo,
) -> None:
    seed = """\
    from people import TEACHER

    async def seed(connection):
        await connection.execute("DELETE FROM note WHERE id = 3")
        await connection.execute("INSERT INTO note VALUES (3, $1)", TEACHER)
    """
    for name in ("alpha", "beta"):
        school.write(f"seeds/{name}/people.py", f"TEACHER = 'teacher of {name}'\n")
        school.write(f"seeds/{name}/seed.py", seed)
    amend(school, **{name: {"seeds": [f"seeds/{name}/seed.py"]} for name in ("alpha", "beta")})
    ran = school.invoke("db.seed", "--jobs", "3")
    assert ran.code == 0, ran.out
    for name in ("alpha", "beta"):
        assert ask(school.url(name), NOTES)[-1] == (f"teacher of {name}",)
    ask(school.url("beta"), "DELETE FROM note WHERE id = 3")


def test_seeds_that_print_do_not_break_the_json(school: Monorepo) -> None:
    write_seed(school, "print('{printed'); import logging; logging.warning('{logged')")
    program = "import subprocess; subprocess.run(['echo', '{of a program'])"
    write_seed(school, program, name="beta")
    write_seed(school, "import os; os.write(1, b'{written')", name="gamma")
    ran = school.invoke("db.seed", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["exit_code"] == 0
    for text in ("{printed", "{logged", "{of a program", "{written"):
        assert text in ran.err


NO_SEEDS = {
    "alpha": ("def seed(connection): pass\n", "async def seed(connection)"),
    "beta": ("raise SystemExit(0)\n", "SystemExit"),
    "gamma": ("import no_such_module\n", "no_such_module"),
}


def test_a_file_that_is_no_seed_is_named(school: Monorepo) -> None:
    for name, (text, _) in NO_SEEDS.items():
        seed_of(school, text, name=name)
    for row in school.invoke("db.seed", "--json").json["services"]:
        assert row["status"] == "FAILED"
        for told in (NO_SEEDS[row["service"]][1], f"seed_{row['service']}.py"):
            assert told in row["detail"]


def test_a_seed_imports_from_the_path_that_its_failure_names(school: Monorepo) -> None:
    school.write("libs/pupils/pupilslib/__init__.py", "")
    school.path(".git").mkdir()
    school.write("database/seed-scripts/seed_alpha.py", f"import pupilslib\n{SEED}")
    failed = school.invoke("db.seed", "--json").json["services"][0]
    assert failed["code"] == "seed-failed"
    (environment,) = re.findall(r'State "environment": (\{.*?\}) for alpha', failed["hint"])
    first, *others = school.services
    school.register({**first, "environment": json.loads(environment)}, *others)
    ran = school.invoke("db.seed", "--json")
    assert ran.code == 0, ran.out


def test_a_seed_that_was_changed_shows_in_the_status(school: Monorepo) -> None:
    def seeded() -> str:
        (row,) = school.invoke("db.status", "--json", "--service", "alpha").json["services"]
        return str(row["seeded"])

    assert school.invoke("db.seed", "--service", "alpha").code == 0
    assert seeded() == "yes"
    school.write("database/seed-scripts/seed_alpha.py", SEED + "\n# changed\n")
    assert seeded() == "changed since"
    assert school.invoke("db.seed", "--service", "alpha").code == 0
    assert seeded() == "yes"


# A process of its own.


def seed_of(school: Monorepo, text: str, *, name: str = "alpha") -> None:
    school.write(f"database/seed-scripts/seed_{name}.py", text)


def failed_seed(ran: Ran) -> dict[str, Any]:
    """Return the outcome of the one service whose seeds failed."""
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK", "gamma": "OK"}
    outcome: dict[str, Any] = ran.json["services"][0]
    return outcome


BLOCKING = {
    "loops": "\n    while True: pass",
    "holds the interpreter": "import re; re.match('(a*)*b', 'a' * 60)",
    "sleeps and passes over SIGTERM": "import signal, time\n"
    "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "    while True: time.sleep(1)",
}


def test_seeds_that_block_their_process_are_ended_in_time(school: Monorepo) -> None:
    names = [entry["name"] for entry in school.services]
    for name, body in zip(names, BLOCKING.values(), strict=True):
        write_seed(school, f'await connection.execute("{THIRD}"); {body}', name=name)
    ran = school.invoke("db.seed", "--json", env={"HULEEDU_MIGRATION_TIMEOUT": "1"})
    assert [row["code"] for row in ran.json["services"]] == ["seed-timeout"] * len(names)
    for name in names:
        assert ask(school.url(name), NOTES) == SEEDED


def test_much_that_a_seed_prints_is_kept_within_bounds(school: Monorepo) -> None:
    write_seed(school, "for number in range(10**6): print('line', number)\n    raise ValueError")
    output = failed_seed(school.invoke("db.seed", "--json"))["output"]
    assert output.startswith("line 0\n")
    assert "bytes of output are left out here" in output
    assert "line 999999\nTraceback" in output
    assert len(output) < 300_000


AS_A_MODULE = """\
from __future__ import annotations

import multiprocessing
import pickle
from dataclasses import dataclass
from typing import get_type_hints


@dataclass
class Note:
    number: int
    text: str = "third"


def note(number):
    return pickle.loads(pickle.dumps(Note(number)))


async def seed(connection):
    assert get_type_hints(Note) == {"number": int, "text": str}
    with multiprocessing.get_context("%s").Pool(1) as pool:
        (made,) = pool.map(note, [%d])
    await connection.execute("INSERT INTO note VALUES ($1, $2)", made.number, made.text)
"""


def test_a_seed_is_a_module_that_can_be_looked_up(school: Monorepo) -> None:
    # Of two of them, names by which no other interpreter could import it.
    files = {"seed.py": "fork", "json.py": "fork", "my-seed.v2.py": "fork", "spawning.py": "spawn"}
    for number, (file, start) in enumerate(files.items(), 3):
        school.write(f"seeds/{file}", AS_A_MODULE % (start, number))
    amend(school, alpha={"seeds": [f"seeds/{file}" for file in files]})
    ran = school.invoke("db.seed", "--service", "alpha", env={"HULEEDU_MIGRATION_TIMEOUT": "20"})
    assert ran.code == 0, ran.out
    assert ask(school.url("alpha"), NOTES) == [*SEEDED, *([("third",)] * len(files))]


def test_a_seed_that_ends_its_process_leaves_nothing(school: Monorepo) -> None:
    write_seed(school, f'await connection.execute("{THIRD}"); import os; os._exit(0)')
    assert failed_seed(school.invoke("db.seed", "--json"))["code"] == "seed-failed"
    assert ask(school.url("alpha"), NOTES) == SEEDED


ENDS_THE_TRANSACTION = {
    "alpha": 'await connection.execute("COMMIT")',
    "beta": 'await connection.execute("COMMIT; BEGIN")',
    "gamma": "\n    try: await connection.execute('SELECT 1/0')\n    except Exception: pass",
}


def test_a_seed_that_ends_the_transaction_is_not_taken_for_applied(school: Monorepo) -> None:
    for name, body in ENDS_THE_TRANSACTION.items():
        write_seed(school, body, name=name)
    rows = school.invoke("db.seed", "--json").json["services"]
    assert [row["code"] for row in rows] == ["seed-transaction"] * 3


def connecting_to(school: Monorepo, name: str) -> str:
    """Return an expression by which a seed connects to a service's database on its own."""
    place = f"port={school.port(name)}, user={USER!r}, database='huleedu_{name}'"
    return f"await __import__('asyncpg').connect(host='localhost', {place})"


@pytest.mark.parametrize("holds", [False, True])
def test_a_seed_that_connects_to_another_database_is_refused(school: Monorepo, holds: bool) -> None:
    away = connecting_to(school, "beta")
    held = f"\n    try: {away}\n    except BaseException: pass"
    write_seed(school, f'await connection.execute("{THIRD}"); {held if holds else away}')
    ran = school.invoke("db.seed", "--json", "--service", "alpha")
    assert (ran.code, ran.json["services"][0]["code"]) == (3, "target-mismatch")
    assert "huleedu_beta" in ran.json["services"][0]["detail"]
    assert ask(school.url("alpha"), NOTES) == ask(school.url("beta"), NOTES) == SEEDED


def test_a_seed_may_connect_to_its_own_database_and_has_no_password_to_show(
    school: Monorepo,
) -> None:
    write_seed(
        school,
        f"own = {connecting_to(school, 'alpha')}\n"
        "    import pathlib, sys\n"
        "    print(await own.fetchval('SELECT 40 + 2'), sys.argv)\n"
        "    print(pathlib.Path('/proc/self/cmdline').read_bytes())",
    )
    ran = school.invoke("db.seed", "--service", "alpha")
    assert ran.code == 0, ran.out
    assert "42 [" in ran.err
    assert PASSWORD not in ran.out + ran.err


# SQL.


def sql_seeds(school: Monorepo, *texts: str) -> Ran:
    """Run seeds in SQL, each in a file of its own: `seeds/1.sql` and so on."""
    names = [f"seeds/{number}.sql" for number, _ in enumerate(texts, 1)]
    for name, text in zip(names, texts, strict=True):
        school.write(name, text)
    amend(school, alpha={"seeds": names})
    return school.invoke("db.seed", "--json", "--service", "alpha")


DUMP = """\
\\restrict random
SET client_encoding = 'UTF8';
SET row_security = off;
SELECT pg_catalog.set_config('search_path', '', false);
ALTER TABLE public.note DISABLE TRIGGER ALL;
DELETE FROM public.note WHERE id = 3;
COPY public.note (id, text) FROM stdin;
3\ta; 'b' \\\\ \\tåäö
\\.


ALTER TABLE public.note ENABLE TRIGGER ALL;
\\unrestrict random
"""


def test_a_dump_is_a_seed_and_its_settings_end_with_it(school: Monorepo) -> None:
    ran = sql_seeds(school, DUMP, "UPDATE note SET text = text || '!' WHERE id = 3")
    assert ran.code == 0, ran.out
    assert ask(school.url("alpha"), NOTES)[-1] == ("a; 'b' \\ \tåäö!",)


SET_BY_A_FILE = (
    "SET search_path = ''",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET statement_timeout = 1; SET lock_timeout = 1",
    "SET LOCAL search_path = ''",
    "SET ROLE pg_monitor",
    "SET SESSION AUTHORIZATION pg_monitor",
    "CREATE TEMP TABLE note (id int, text text)",
    "PREPARE q AS SELECT 1",
    "SET standard_conforming_strings = off; SET client_encoding = 'LATIN1'",
)


def test_what_a_file_sets_for_its_session_does_not_reach_the_next(school: Monorepo) -> None:
    adds = "PREPARE q AS SELECT pg_sleep(0.01); EXECUTE q; INSERT INTO note VALUES ({}, 'å\\')"
    texts = [
        text
        for number, setting in enumerate(SET_BY_A_FILE, 3)
        for text in (setting, adds.format(number))
    ]
    ran = sql_seeds(school, *texts)
    assert ran.code == 0, ran.out
    assert ask(school.url("alpha"), NOTES) == [*SEEDED, *([("å\\",)] * len(SET_BY_A_FILE))]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("SELECT 1;\n\nSELECT\n  no_such_column;\n", 4),
        ("SELECT 1;\n\nINSERT INTO note\nVALUES (1, 'again');\nSELECT 2;", 3),
        ("SELECT 'åäö\n';\nSELECT FROM nothing;", 3),
        ("\\restrict x\nSELECT 1;\nDO $$\nBEGIN\n  RAISE 'stop';\nEND$$;\n", 3),
        ("COPY note FROM stdin;\n3\tthird\nthree\tfourth\n\\.\n", 3),
        ("SELECT 1;\nCOPY note FROM stdin;\n1\tagain\n\\.\n", 3),
        ("SELECT 1;\nSELECT (2;\n", 2),
    ],
)
def test_an_error_in_sql_has_its_line(school: Monorepo, text: str, line: int) -> None:
    failed = sql_seeds(school, THIRD, text).json["services"][0]
    assert f"seeds/2.sql failed in line {line}: " in failed["detail"]
    assert failed["code"] == "seed-failed"
    assert "child.py" not in failed["output"]
    assert ask(school.url("alpha"), NOTES) == SEEDED


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("COMMIT;", "seed-transaction"),
        ("\\connect other", "seed-psql-command"),
    ],
)
def test_what_cannot_stand_in_a_seed_is_refused(school: Monorepo, text: str, code: str) -> None:
    ran = sql_seeds(school, THIRD, f"SELECT 1;\n{text}\n")
    failed = ran.json["services"][0]
    assert (failed["code"], "line 2" in failed["detail"]) == (code, True), failed
    assert ask(school.url("alpha"), NOTES) == SEEDED
