"""The rows about `invoke db.reset`."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import floor, trace
from benchmarks.bare import bare_servers
from benchmarks.bench import Bench
from benchmarks.children import BenchmarkError, run
from benchmarks.containers import PDM, follow_procedure, remove_containers
from benchmarks.measure import Side, Timing, in_turn
from benchmarks.monorepo import Monorepo, ask, database_of, directory_of
from benchmarks.table import Line, duration, ratio

WARM = "`invoke db.reset`, nothing changed"
COLD = "`invoke db.reset`, nothing there"
FLOOR = "a script that drops and copies the same databases"
PROCEDURE = "the shell script"
# It takes long, ten seconds of which it sleeps.
PROCEDURE_ROUNDS = 2
THROUGH = "`pdm run alembic`" if PDM else "Alembic called directly, as there is no `pdm`"
TOO_SHORT = "failed: its pause may be too short for this machine"
TEMPLATES = (
    "SELECT datname::text FROM pg_database"
    " WHERE starts_with(datname::text, $1) AND NOT datallowconn ORDER BY oid DESC LIMIT 1"
)
# The service that gets a new revision.
CHANGED = "nlp"
REVISION = """\
\"\"\"Do nothing, for a benchmark.\"\"\"

revision = "{revision}"
down_revision = "{parent}"


def upgrade() -> None:
    pass
"""


def warm(bench: Bench) -> Iterator[Line]:
    """Reset embedded servers without a change, compared with its floor."""
    yield _warm_line("warm", measure_warm(bench, bench.embedded))


def warm_docker(bench: Bench) -> Iterator[Line]:
    """Reset containers without a change, compared with its floor."""
    yield _warm_line("warm-docker", _warm_docked(bench))


def procedure(bench: Bench) -> Iterator[Line]:
    """Follow the procedure that the tasks replace."""
    reset, _ = _warm_docked(bench)
    followed = _procedure(bench)
    yield Line(
        row="procedure",
        measured=PROCEDURE,
        timing=followed,
        beside=f"{WARM} (row warm-docker)",
        beside_timing=reset,
        compared=ratio(followed, reset) if followed else "",
        notes=f"{PROCEDURE_ROUNDS} rounds; seven services, no seeds; {THROUGH}"
        if followed
        else TOO_SHORT,
        failed=followed is None,
    )


def cold(bench: Bench) -> Iterator[Line]:
    """Reset embedded servers from nothing, compared with the least work."""
    monorepo = bench.embedded
    with bare_servers(monorepo) as bare:
        parts = {
            "initdb": Side(run=bare.initdb, prepare=bare.renew),
            "eight copies and starts": Side(run=bare.start),
            "databases and migrations as SQL": Side(run=bare.migrate),
            "seeds": Side(run=bare.seed),
            "an interpreter with Alembic": Side(run=bare.import_libraries),
        }
        reset, *needed = bench.measure(
            Side(run=monorepo.reset, prepare=monorepo.remove_servers), *parts.values()
        )
    total = Timing.total(needed)
    shown = [f"{n} {duration(t.median)}" for n, t in zip(parts, needed, strict=True)]
    yield Line(
        row="cold",
        measured=COLD,
        timing=reset,
        beside="the sum of what must be done",
        beside_timing=total,
        compared=ratio(reset, total),
        notes=", ".join(shown),
    )


def cold_docker(bench: Bench) -> Iterator[Line]:
    """Reset without containers and volumes, compared with the procedure."""
    docked = bench.docked
    followed = _procedure(bench)
    (reset,) = bench.measure(Side(run=docked.reset, prepare=lambda: remove_containers(docked)))
    yield Line(
        row="cold-docker",
        measured=COLD,
        timing=reset,
        beside=f"{PROCEDURE} (row procedure)",
        beside_timing=followed,
        compared=ratio(reset, followed) if followed else "",
    )


def revision(bench: Bench) -> Iterator[Line]:
    """Reset with a new revision of one service, compared with a reset without a change."""
    monorepo = bench.embedded
    with _new_revisions(monorepo) as new:
        changed, unchanged = bench.measure(
            Side(run=monorepo.reset, prepare=new.replace), Side(run=monorepo.reset)
        )
        processes = _visited(monorepo, new)
    at_work = _at_work(monorepo, processes)
    own = at_work.pop(CHANGED)
    yield Line(
        row="revision",
        measured=f"`invoke db.reset`, a new revision of {CHANGED}",
        timing=changed,
        beside=WARM,
        beside_timing=unchanged,
        compared=ratio(changed, unchanged),
        notes=f"{len(processes)} Python processes in all; at work for {CHANGED}: {own}, "
        f"for the other services: {sum(at_work.values())}",
    )


def measure_warm(bench: Bench, monorepo: Monorepo) -> tuple[Timing, ...]:
    """Measure a reset without a change, and its floor."""
    monorepo.reset()
    copied = _templates(monorepo)
    return bench.measure(Side(run=monorepo.reset), Side(run=lambda: copy_all(monorepo, copied)))


def _warm_line(row: str, timings: Sequence[Timing]) -> Line:
    reset, least = timings
    return Line(
        row=row,
        measured=WARM,
        timing=reset,
        beside=FLOOR,
        beside_timing=least,
        compared=ratio(reset, least),
    )


def _warm_docked(bench: Bench) -> tuple[Timing, ...]:
    return bench.once("warm-docker", lambda: measure_warm(bench, bench.docked))


def _procedure(bench: Bench) -> Timing | None:
    """Measure the procedure; return None if it fails."""
    measured = bench.once("procedure", lambda: _measure_procedure(bench))
    return measured[0] if measured else None


def _measure_procedure(bench: Bench) -> tuple[Timing, ...]:
    follow = Side(run=lambda: follow_procedure(bench.docked), prepare=bench.docked.reset)
    try:
        return in_turn(PROCEDURE_ROUNDS, follow, warm_up=False)
    except BenchmarkError as error:
        bench.say(str(error))
        return ()


def _templates(monorepo: Monorepo) -> str:
    """Return the input of the floor's script: servers, databases and templates."""
    told = []
    for entry in monorepo.entries:
        database, login = database_of(entry), monorepo.login(entry["port"])
        template = ask(login, TEMPLATES, f"{database}__made_")
        assert template, f"a reset has kept no copy of {database}"
        told.append({"database": database, "template": template, "login": login})
    return json.dumps(told)


def copy_all(monorepo: Monorepo, told: str) -> None:
    """Run the floor's script: drop databases, and copy each from a template.

    Args:
        told: Its input: servers, databases and templates, as JSON.
    """
    command = [sys.executable, str(floor.__file__)]
    run(command, cwd=monorepo.root, environment={}, stdin=told)


@dataclass(slots=True, kw_only=True)
class _NewRevisions:
    """Revisions after a service's last one, of which only one exists at a time.

    Each has another name, because a reset keeps the templates of the ones before.
    """

    directory: Path
    parent: str
    _number: int = 0
    _written: list[Path] = field(default_factory=list)

    def replace(self) -> None:
        """Replace the revision by the next one."""
        self.remove()
        self._number += 1
        name = f"benchmark{self._number}"
        path = self.directory / f"{name}.py"
        self._written.append(path)
        path.write_text(REVISION.format(revision=name, parent=self.parent), encoding="utf-8")

    def remove(self) -> None:
        """Remove the revision."""
        while self._written:
            self._written.pop().unlink(missing_ok=True)


@contextmanager
def _new_revisions(monorepo: Monorepo) -> Iterator[_NewRevisions]:
    status = json.loads(monorepo.invoke("db.status", "--service", CHANGED, "--json").out)
    directory = monorepo.root / directory_of({"name": CHANGED}) / "alembic/versions"
    new = _NewRevisions(directory=directory, parent=status["services"][0]["head"])
    try:
        yield new
    finally:
        new.remove()


def _visited(monorepo: Monorepo, new: _NewRevisions) -> list[set[str]]:
    """Return the directories of each Python process of a reset, relative to the monorepo."""
    directory = monorepo.root.parent / "trace"
    directory.mkdir()
    shutil.copy(str(trace.__file__), directory / "sitecustomize.py")
    notes = directory / "notes"
    path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
    traced = {"PYTHONPATH": path, trace.VARIABLE: str(notes)}
    # These variables are inputs as well: what was built without them is built once more.
    monorepo.invoke("db.reset", **traced)
    notes.unlink()
    new.replace()
    monorepo.invoke("db.reset", **traced)
    visited: dict[str, set[str]] = {}
    for line in notes.read_text(encoding="utf-8").splitlines():
        process, _, place = line.partition(" ")
        visited.setdefault(process, set()).add(os.path.relpath(place, monorepo.root))
    shutil.rmtree(directory)
    return list(visited.values())


def _at_work(monorepo: Monorepo, processes: Sequence[set[str]]) -> dict[str, int]:
    """Return the number of processes in the directory of each service."""
    return {
        entry["name"]: sum(directory_of(entry) in visited for visited in processes)
        for entry in monorepo.entries
    }
