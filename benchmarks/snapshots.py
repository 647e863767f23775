"""The rows about `invoke db.snapshot` and `invoke db.restore`."""

import json
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.measure import Side
from benchmarks.monorepo import Monorepo, database_of
from benchmarks.resets import copy_all
from benchmarks.table import Line, ratio

NAME = "benchmark"
FLOOR = "a script that drops and copies the same databases"


def snapshots(bench: Bench) -> Iterator[Line]:
    """Save and restore the databases of embedded servers, compared with bare copies."""
    monorepo = bench.embedded
    told = _copies(monorepo)
    monorepo.reset()
    save, restore = ("db.snapshot", NAME), ("db.restore", NAME)
    saved, restored, least, bare = bench.measure(
        Side(run=lambda: monorepo.invoke(*save), prepare=lambda: _delete(monorepo)),
        Side(run=lambda: monorepo.invoke(*restore)),
        Side(run=lambda: copy_all(monorepo, told)),
        bench.bare_side(),
    )
    for command, timing in ((save, saved), (restore, restored)):
        yield Line(
            row="snapshots",
            measured=f"`invoke {' '.join(command)}`",
            timing=timing,
            beside=FLOOR,
            beside_timing=least,
            compared=ratio(timing, least),
        )
    yield Line(
        row="snapshots",
        measured="`invoke nothing`, one task that does nothing",
        timing=bare,
        beside=FLOOR,
        beside_timing=least,
        compared=ratio(bare, least),
        notes="the part of both commands that is Invoke's own",
    )


def _copies(monorepo: Monorepo) -> str:
    """Return the input of the floor's script: a copy of each database itself."""
    told = [
        {
            "database": f"{database_of(entry)}_bare",
            "template": database_of(entry),
            "login": monorepo.login(entry["port"]),
        }
        for entry in monorepo.entries
    ]
    return json.dumps(told)


def _delete(monorepo: Monorepo) -> None:
    listed = json.loads(monorepo.invoke("db.snapshots", "--json").out)
    if any(row["name"] == NAME for row in listed["snapshots"]):
        monorepo.invoke("db.snapshots", "--delete", NAME)
