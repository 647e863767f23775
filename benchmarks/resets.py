"""The rows about `invoke db.reset`."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import floor, trace
from benchmarks.bare import bare_servers
from benchmarks.bench import Bench
from benchmarks.children import BenchmarkError, run
from benchmarks.containers import (
    MIGRATE,
    PDM,
    REMOVE,
    START,
    WAIT,
    follow_procedure,
    remove_containers,
)
from benchmarks.measure import FEW_ROUNDS, Side, Timing
from benchmarks.monorepo import Monorepo, ask, database_of, directory_of
from benchmarks.table import Line, at_least, at_most, duration, ratio, times

WARM = "`invoke db.reset`, nothing changed"
COLD = "`invoke db.reset`, nothing there"
FLOOR = "a script that drops and copies the same databases"
BARE = "`invoke nothing`, one task that does nothing"
PROCEDURE = "the shell script, its sleep replaced by the shortest wait that works"
THROUGH = "`pdm run alembic`" if PDM else "Alembic called directly, as there is no `pdm`"
# The goals, as factors.
WARM_BESIDE_FLOOR = 2.2
WARM_BESIDE_BARE = 4.0
COLD_BESIDE_PARTS = 1.5
COLD_BESIDE_PROCEDURE = 3.0
WARM_BESIDE_PROCEDURE = {"embedded": 25.0, "Docker": 15.0}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The rounds of the procedure as it is written.

    Attributes:
        timing: Of the rounds that did not fail; None if all did.
        failed: The number of rounds that failed.
        reason: What the last failing round said.
    """

    timing: Timing | None
    failed: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """The procedure that the tasks replace, and resets, measured in turn.

    Attributes:
        removing: It removes the containers and volumes.
        starting: It starts, waits and migrates, where nothing is there.
        cold: A reset with Docker, where nothing is there.
        docker: A reset with Docker, nothing changed.
        embedded: A reset with embedded servers, nothing changed.
    """

    removing: Timing
    starting: Timing
    cold: Timing
    docker: Timing
    embedded: Timing


def warm(bench: Bench) -> Iterator[Line]:
    """Reset embedded servers without a change, compared with its floor and with bare Invoke."""
    yield from _warm_lines("warm", measure_warm(bench, bench.embedded))


def warm_docker(bench: Bench) -> Iterator[Line]:
    """Reset containers without a change, compared with its floor and with bare Invoke."""
    yield from _warm_lines("warm-docker", measure_warm(bench, bench.docked))


def procedure(bench: Bench) -> Iterator[Line]:
    """Reset without a change, compared with the procedure that the tasks replace."""
    measured = _procedure(bench)
    followed = Timing.total([measured.removing, measured.starting])
    for provider, reset in (("embedded", measured.embedded), ("Docker", measured.docker)):
        yield Line(
            row="procedure",
            measured=f"{WARM}, {provider}",
            timing=reset,
            beside=PROCEDURE,
            beside_timing=followed,
            compared=f"{times(followed.median / reset.median)} as fast",
            goal=at_least(WARM_BESIDE_PROCEDURE[provider], followed.median / reset.median),
            notes=f"the script migrates seven services, without seeds; {THROUGH}",
        )
    yield _written_line(bench)


def _written_line(bench: Bench) -> Line:
    """Return the line of the procedure as it is written, which may fail in some rounds."""
    written = _follow_as_written(bench)
    failed = f"{written.failed} of {FEW_ROUNDS} rounds failed"
    return Line(
        row="procedure",
        measured="the shell script as it is written, with its sleep of ten seconds",
        timing=written.timing,
        compared=failed,
        notes=f"{failed}; the last one: {written.reason}" if written.reason else "",
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
        goal=at_most(COLD_BESIDE_PARTS, reset.median / total.median),
        notes=", ".join(shown),
    )


def cold_docker(bench: Bench) -> Iterator[Line]:
    """Reset without containers and volumes, compared with the procedure."""
    measured = _procedure(bench)
    yield Line(
        row="cold-docker",
        measured=f"{COLD}, Docker",
        timing=measured.cold,
        beside=f"{PROCEDURE}, nothing there",
        beside_timing=measured.starting,
        compared=f"{times(measured.starting.median / measured.cold.median)} as fast",
        goal=at_least(COLD_BESIDE_PROCEDURE, measured.starting.median / measured.cold.median),
        notes=f"the script migrates seven services, without seeds; {THROUGH}",
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
    """Measure a reset without a change, its floor, and bare Invoke.

    A reset precedes each one: it would keep what the floor has made, which has no environment tag.
    """
    monorepo.reset()
    copied = _templates(monorepo)
    return bench.measure(
        Side(run=monorepo.reset, prepare=monorepo.reset),
        Side(run=lambda: copy_all(monorepo, copied)),
        bench.bare_side(),
    )


def _warm_lines(row: str, timings: Sequence[Timing]) -> Iterator[Line]:
    reset, least, bare = timings
    for beside, timing, bound in (
        (FLOOR, least, WARM_BESIDE_FLOOR),
        (BARE, bare, WARM_BESIDE_BARE),
    ):
        yield Line(
            row=row,
            measured=WARM,
            timing=reset,
            beside=beside,
            beside_timing=timing,
            compared=ratio(reset, timing),
            goal=at_most(bound, reset.median / timing.median),
        )


def _procedure(bench: Bench) -> Procedure:
    docked, embedded = bench.docked, bench.embedded

    def measure() -> tuple[Timing, ...]:
        return bench.measure(
            Side(run=lambda: follow_procedure(docked, [REMOVE]), prepare=docked.reset),
            Side(run=lambda: follow_procedure(docked, [START, WAIT, MIGRATE])),
            Side(run=docked.reset, prepare=lambda: remove_containers(docked)),
            Side(run=docked.reset, prepare=docked.reset),
            Side(run=embedded.reset, prepare=embedded.reset),
            warm_up=False,
        )

    removing, starting, cold, docker, warm = bench.once("procedure", measure)
    return Procedure(removing=removing, starting=starting, cold=cold, docker=docker, embedded=warm)


def _follow_as_written(bench: Bench) -> Written:
    """Follow the procedure as it is written, and count the rounds in which it fails."""
    seconds: list[float] = []
    reason = ""
    for _ in range(FEW_ROUNDS):
        bench.docked.reset()
        began = time.perf_counter()
        try:
            follow_procedure(bench.docked)
        except BenchmarkError as error:
            reason = str(error).splitlines()[-1]
        else:
            seconds.append(time.perf_counter() - began)
    return Written(
        timing=Timing.of(seconds) if seconds else None,
        failed=FEW_ROUNDS - len(seconds),
        reason=reason,
    )


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
