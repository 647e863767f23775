"""Only the approved SQL and the approved input files are run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.production.test_confirmation import asked
from tests.support.postgres import ask
from tests.support.rehearsal import HOST, Rehearsal, told
from tests.support.terminal import seen

SERVICE = "services/alpha_service"
CODE = "plan-changed"
IMPORTS = """\
from alembic import op
{imported}

revision = "b2"
down_revision = "a1"


def upgrade():
    {before}
    op.execute("CREATE TABLE made_by_b2 ()")
    op.execute({sql})
"""
NOW = "f\"COMMENT ON TABLE made_by_b2 IS '{datetime.now()}'\""
TABLES = r"SELECT relname FROM pg_class WHERE relname LIKE '%agreed%' AND relkind = 'r'"
# A directory outside the repository, like that of an installed library.
LIBRARY = "lib/site-packages/company.py"


@pytest.fixture
def service(rehearsal: Rehearsal) -> Iterator[Callable[[str, str], Path]]:
    """Return a function that writes a file of alpha's service, which is restored afterwards."""
    before: dict[Path, str | None] = {}

    def write(name: str, text: str) -> Path:
        path = rehearsal.monorepo.path(f"{SERVICE}/{name}")
        before.setdefault(path, path.read_text() if path.exists() else None)
        return rehearsal.monorepo.write(f"{SERVICE}/{name}", text)

    yield write
    for path, text in before.items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text)


def revise(
    service: Callable[[str, str], Path],
    imported: str = "from sqls import SQL",
    sql: str = "SQL",
    before: str = "pass",
) -> None:
    """Add the revision b2, which imports its SQL."""
    text = IMPORTS.format(imported=imported, sql=sql, before=before)
    service("alembic/versions/b2.py", text)


def refused(rehearsal: Rehearsal, *flags: str) -> str:
    """Migrate, assert that the run was refused with `plan-changed`, and return the findings."""
    ran = rehearsal.migrate("--service", "alpha") if not flags else rehearsal.migrate(*flags)
    assert (ran.code, ran.json["error"]["code"]) == (3, CODE), ran.err
    assert (rehearsal.at("alpha"), ask(rehearsal.production.admin(), TABLES)) == ("a1", [])
    return str(ran.json["error"]["findings"])


def planned(rehearsal: Rehearsal) -> tuple[str, str]:
    """Write a plan for alpha, and return the flags that carry it out."""
    ran = rehearsal.invoke("prod.plan", "--service", "alpha", "--out", "plan.json")
    assert ran.code == 0, ran.err
    return "--plan", "plan.json"


# With a plan file.


def test_an_edited_module_that_a_revision_imports_is_refused_by_name(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    service("sqls.py", "SQL = 'CREATE TABLE agreed ()'\n")
    revise(service)
    flags = planned(rehearsal)
    service("sqls.py", "SQL = 'CREATE TABLE not_agreed ()'\n")
    findings = refused(rehearsal, *flags)
    assert f"alpha: {SERVICE}/sqls.py has been edited" in findings
    assert "line 3 was 'CREATE TABLE agreed ();', and is 'CREATE TABLE not_agreed ();'" in findings


def test_an_edited_alembic_configuration_is_refused_even_if_the_sql_is_equal(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    rehearsal.grow("alpha")
    flags = planned(rehearsal)
    for name in ("alembic/env.py", "alembic.ini"):
        text = rehearsal.monorepo.read(f"{SERVICE}/{name}")
        service(name, f"{text}\n# Nothing but a comment.\n")
    findings = refused(rehearsal, *flags)
    assert "alembic/env.py has been edited" in findings
    assert "alembic.ini has been edited" in findings


def test_an_edited_file_that_a_revision_reads_is_refused(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    service("view.sql", "CREATE TABLE agreed ()")
    revise(service, "from pathlib import Path", 'Path("view.sql").read_text()')
    flags = planned(rehearsal)
    service("view.sql", "CREATE TABLE not_agreed ()")
    assert f"{SERVICE}/view.sql has been edited" in refused(rehearsal, *flags)


def test_a_library_that_renders_different_sql_is_refused_with_the_line(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    service(LIBRARY, "SQL = 'CREATE TABLE agreed ()'\n")
    imported = 'import sys; sys.path.append("lib/site-packages"); from company import SQL'
    revise(service, imported)
    flags = planned(rehearsal)
    service(LIBRARY, "SQL = 'CREATE TABLE not_agreed (i int)'\n")
    findings = refused(rehearsal, *flags)
    assert "the SQL of revision b2 differs from the approved SQL" in findings
    assert "has been edited" not in findings


def test_a_library_that_renders_the_same_sql_may_change(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    service(LIBRARY, "SQL = 'SELECT 1'\n")
    imported = 'import sys; sys.path.append("lib/site-packages"); from company import SQL'
    revise(service, imported)
    flags = planned(rehearsal)
    service(LIBRARY, "SQL = 'SELECT' + ' 1'\n")
    assert rehearsal.migrate(*flags).code == 0
    assert rehearsal.at("alpha") == "b2"


def test_edited_files_are_refused_if_the_sql_cannot_be_rendered(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    service("sqls.py", "SQL = 'CREATE TABLE agreed ()'\n")
    revise(service, before='op.get_bind().execute("SELECT 1").scalar()')
    flags = planned(rehearsal)
    service("sqls.py", "SQL = 'CREATE TABLE not_agreed ()'\n")
    assert f"{SERVICE}/sqls.py has been edited" in refused(rehearsal, *flags)


def test_a_timestamp_in_the_sql_is_not_a_change(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    revise(service, "from datetime import datetime", NOW)
    flags = planned(rehearsal)
    assert rehearsal.migrate(*flags).code == 0
    assert rehearsal.at("alpha") == "b2"


# Without a plan file.


def test_an_empty_plan_starts_no_upgrade(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    """Only the environment tag is missing; env.py does not state its version table literally."""
    text = rehearsal.monorepo.read(f"{SERVICE}/alembic/env.py")
    noted = 'import sys\nprint(*sys.argv, file=open("started", "a"))\n'
    table = "context.configure(connection=connection, version_table='alembic' + '_version')"
    text = text.replace("context.configure(connection=connection)", table)
    service("alembic/env.py", f"{noted}{text}")
    ask(rehearsal.production.admin(), "COMMENT ON DATABASE huleedu_alpha IS 'Our essays.'")
    ran = rehearsal.migrate("--service", "alpha")
    started = rehearsal.monorepo.path(f"{SERVICE}/started")
    assert ran.code == 0, ran.err
    assert "nothing was pending, tagged as production" in told(ran, "alpha")["detail"]
    assert "upgrade" not in started.read_text()
    started.unlink()


def test_a_change_between_the_question_and_the_answer_is_refused(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    service("sqls.py", "SQL = 'CREATE TABLE agreed ()'\n")
    revise(service)
    child = asked(rehearsal)
    service("sqls.py", "SQL = 'CREATE TABLE not_agreed ()'\n")
    child.sendline(HOST)
    ran = seen(child)
    assert ran.code == 3
    assert f"{SERVICE}/sqls.py has been edited" in ran.err
    assert CODE in ran.err
    assert rehearsal.at("alpha") == "a1"


@pytest.mark.parametrize("name", ["sqls.py", "view.sql"])
def test_a_file_is_compared_when_it_is_loaded(
    rehearsal: Rehearsal, service: Callable[[str, str], Path], name: str
) -> None:
    """The backup command edits the file after the last comparison of the plan."""
    service("sqls.py", "SQL = 'CREATE TABLE agreed ()'\n")
    service("view.sql", "CREATE TABLE agreed_as_well ()")
    imported = "from sqls import SQL\nfrom pathlib import Path"
    revise(service, imported, before='op.execute(Path("view.sql").read_text())')
    edit = f"sed -i 's/agreed/not_agreed/' {SERVICE}/{name}"
    ran = rehearsal.migrate("--service", "alpha", "--backup-command", edit)
    alpha = told(ran, "alpha")
    assert (ran.code, alpha["code"]) == (3, CODE), ran.err
    assert f"{SERVICE}/{name} was changed after the plan was approved" in alpha["detail"]
    assert rehearsal.at("alpha") == "a1"
    assert ask(rehearsal.production.admin(), TABLES) == []


def test_stale_bytecode_of_another_source_is_not_run(
    rehearsal: Rehearsal, service: Callable[[str, str], Path]
) -> None:
    service("sqls.py", "SQL = 'CREATE TABLE ____agreed ()'\n")
    revise(service)
    stale = (
        "python3 - <<'END'\n"
        "import os, py_compile\n"
        f"path = '{SERVICE}/sqls.py'\n"
        "text, when = open(path).read(), os.stat(path).st_mtime_ns\n"
        "open(path, 'w').write(text.replace('____agreed', 'not_agreed'))\n"
        "os.utime(path, ns=(when, when))\n"
        "py_compile.compile(path)\n"
        "open(path, 'w').write(text)\n"
        "os.utime(path, ns=(when, when))\n"
        "END"
    )
    ran = rehearsal.migrate("--service", "alpha", "--backup-command", stale)
    assert ran.code == 0, ran.err
    assert ask(rehearsal.production.admin(), TABLES) == [("____agreed",)]
