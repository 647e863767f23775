"""The tasks beside a user's own: as the command `huleedu`, and in the user's namespace."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from huleedu_tasks import __version__
from huleedu_tasks.cli.command_line import typed_before
from tests.support.documents import blocks, page
from tests.support.monorepo import Monorepo, Ran, clean_environment, new_monorepo
from tests.support.tasks import TASKS
from tests.unit.test_fences import HEAVY

SECTION = page("adoption.md").partition("\n## Beside your own tasks\n")[2].partition("\n## ")[0]
BESIDE, BELOW, PARTS = blocks(SECTION, "python")
HUNG = 60.0
# Leaves a file open, and an exit handler.
UNFINISHED = """\
import atexit
import pathlib

from huleedu_tasks.cli import namespace

log = open("log", "w")
log.write("buffered")
atexit.register(pathlib.Path("ended").touch)
"""


@pytest.fixture(scope="module")
def theirs() -> Iterator[Monorepo]:
    """Return a monorepo of one service whose server does not run."""
    with new_monorepo(["parcels"]) as made:
        yield made


def scripted(monorepo: Monorepo, program: str, *arguments: str, cwd: str = ".") -> Ran:
    """Run a program that was installed with the package, as a user would."""
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=monorepo.root / cwd,
        env={**clean_environment(), **monorepo.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def listed(ran: Ran) -> set[str]:
    """Return the names in a list of tasks."""
    assert ran.code == 0, ran.err
    return set(re.findall(r"^  (\S+) ", ran.out, re.MULTILINE))


# The command `huleedu`


def test_huleedu_has_every_task_without_reading_tasks_py(theirs: Monorepo) -> None:
    theirs.write("tasks.py", "raise SystemExit('read')\n")
    assert listed(scripted(theirs, "huleedu", "--list")) == set(TASKS)


def test_huleedu_prints_its_version(theirs: Monorepo) -> None:
    assert scripted(theirs, "huleedu", "--version").out == f"huleedu-tasks {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["reset"], "db.reset"), (["db.rest"], "db.reset"), (["db.up", "--servic"], "--service")],
)
def test_huleedu_suggests_the_correct_spelling(
    theirs: Monorepo, typed: list[str], meant: str
) -> None:
    ran = scripted(theirs, "huleedu", *typed)
    assert ran.code == 1
    assert f"Did you mean {meant}?" in ran.err


def test_the_help_of_a_task_names_huleedu(theirs: Monorepo) -> None:
    explained = scripted(theirs, "huleedu", "--help", "db.reset").out
    assert explained.startswith("Usage: huleedu [--core-opts] db.reset [--options]")
    assert "--volumes" in explained


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_huleedu_prints_a_completion_script(theirs: Monorepo, shell: str) -> None:
    script = scripted(theirs, "huleedu", "--print-completion-script", shell)
    assert script.code == 0, script.err
    assert "_complete_huleedu" in script.out


OFFERED = {
    "db.s": {"db.schema", "db.seed", "db.shell", "db.snapshot", "db.snapshots", "db.status"},
    "db.reset --vol": {"--volumes"},
    "db.reset --service ''": {"parcels"},
    "db.up db.reset --service par": {"parcels"},
    "db.reset --service parcels env.i": {"env.init"},
}


def test_the_shell_completes_tasks_flags_and_services(theirs: Monorepo) -> None:
    """Bash passes all words in a variable and the last one as an argument."""
    asked = "".join(
        f"""
        COMP_WORDS=(huleedu {typed})
        _complete_huleedu huleedu {typed.rpartition(" ")[2]}
        echo "${{COMPREPLY[@]}}"
        """
        for typed in OFFERED
    )
    script = f"""
        PATH={Path(sys.executable).parent}:$PATH
        source <(huleedu --print-completion-script bash)
        {asked}
    """
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=theirs.root,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=HUNG,
        check=True,
    )
    offered = [set(line.split()) for line in ran.stdout.splitlines()]
    assert offered == list(OFFERED.values()), ran.stderr


def test_huleedu_works_in_any_directory_of_the_monorepo(theirs: Monorepo) -> None:
    ran = scripted(theirs, "huleedu", "services.list", "--json", cwd="services/parcels_service")
    assert [service["name"] for service in ran.json["services"]] == ["parcels"]


@pytest.mark.parametrize("flag", ["--dry", "--dry-run"])
def test_a_dry_run_of_huleedu_changes_nothing(theirs: Monorepo, flag: str) -> None:
    ran = scripted(theirs, "huleedu", "db.reset", flag)
    assert ran.code == 0, ran.err
    assert "would" in ran.out
    assert not theirs.data_directories()


def test_huleedu_list_imports_no_heavy_library(theirs: Monorepo) -> None:
    script = Path(sys.executable).with_name("huleedu")
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--list"],
        cwd=theirs.root,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "huleedu_tasks.cli.program" in loaded
    # Invoke itself reads its own configuration with yaml.
    assert {name.partition(".")[0] for name in loaded}.isdisjoint(HEAVY - {"yaml"})


# In the user's namespace: the examples of the page


def test_all_tasks_are_beside_the_users_own(theirs: Monorepo) -> None:
    theirs.write("tasks.py", BESIDE)
    assert listed(scripted(theirs, "invoke", "--list")) == {"lint", *TASKS}


def test_all_tasks_are_below_a_name_that_the_user_chose(theirs: Monorepo) -> None:
    theirs.write("tasks.py", BELOW)
    names = {f"databases.{name}" for name in TASKS}
    assert listed(scripted(theirs, "invoke", "--list")) == {"lint", *names}


def test_some_tasks_are_beside_the_users_own(theirs: Monorepo) -> None:
    theirs.write("tasks.py", PARTS)
    some = {name for name in TASKS if name.startswith(("db.", "env."))}
    assert listed(scripted(theirs, "invoke", "--list")) == {"integration", *some}


def test_a_task_can_run_before_one_of_the_users_own(theirs: Monorepo) -> None:
    theirs.write("tasks.py", PARTS.replace("pytest tests/integration", "echo tested"))
    ran = scripted(theirs, "invoke", "integration", "--dry")
    assert ran.code == 0, ran.err
    assert "would" in ran.out
    assert "echo tested" in ran.out


def test_a_task_of_the_users_does_not_run_after_one_that_failed(theirs: Monorepo) -> None:
    theirs.write("tasks.py", PARTS.replace("pytest tests/integration", "echo tested"))
    theirs.environment["HULEEDU_PROVIDER"] = "existing"
    ran = scripted(theirs, "invoke", "integration")
    theirs.environment["HULEEDU_PROVIDER"] = "embedded"
    assert ran.code == 1
    assert "tested" not in ran.out


# Commands in hints


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        (["huleedu", "db.status"], "`huleedu db.up`"),
        (["invoke", "db.status"], "`invoke db.up`"),
        (["inv", "db.status"], "`inv db.up`"),
        (["invoke", "databases.db.status"], "`invoke databases.db.up`"),
    ],
    ids=" ".join,
)
def test_a_hint_has_the_command_that_works_in_that_namespace(
    theirs: Monorepo, typed: list[str], suggested: str
) -> None:
    theirs.write("tasks.py", BELOW if "databases" in typed[1] else BESIDE)
    program, task = typed
    ran = scripted(theirs, program, task, "--json")
    assert suggested in ran.out
    assert set(re.findall(r"`\S+ (?:databases\.)?db\.up`", ran.out + ran.err)) == {suggested}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/huleedu", "db.reset"], "huleedu "),
        (["/usr/bin/invoke", "env.init", "db.reset", "--service", "a"], "invoke "),
        (["/lib/invoke/__main__.py", "db.reset"], "invoke "),
        (["invoke", "--echo", "data.base.db.reset"], "invoke data.base."),
        # A task of the user's that has `db.reset` as its pre-task or post-task.
        (["invoke", "integration"], "invoke "),
        # Another task whose name ends with the same characters.
        (["invoke", "mydb.reset", "x.db.reset"], "invoke x."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_prefix_of_a_task_is_read_from_the_command_line(argv: list[str], expected: str) -> None:
    assert typed_before("db.reset", argv) == expected


def test_what_the_users_tasks_leave_open_is_finished_after_a_command(theirs: Monorepo) -> None:
    """The garbage collector does not visit what is loaded when a command ends."""
    theirs.write("tasks.py", UNFINISHED)
    assert scripted(theirs, "invoke", "services.list").code == 0
    assert theirs.read("log") == "buffered"
    assert theirs.path("ended").exists()
