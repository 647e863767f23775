"""Measures how fast the tasks are on this machine, and prints tables as Markdown.

Everything happens in a scratch directory (TMPDIR says where), on free ports and in a compose
project of its own, and is removed at the end, after Ctrl-C as well.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.containers import why_no_docker
from benchmarks.machine import load, machine
from benchmarks.measure import ENOUGH_ROUNDS
from benchmarks.publishing import publish
from benchmarks.rows import ROWS, Group
from benchmarks.table import Line, document
from benchmarks.tools import why_no_peers

FAILED = 1
INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The arguments of the command line.

    Attributes:
        rounds: The number of measurements of each side.
        rows: The rows, in the order of the table.
        markdown: A file for the tables; None for standard output only.
    """

    rounds: int
    rows: tuple[str, ...]
    markdown: Path | None


def parse(arguments: Sequence[str]) -> Wanted:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rounds",
        type=_positive,
        default=ENOUGH_ROUNDS,
        help=f"number of measurements of each side; default: {ENOUGH_ROUNDS}",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*Group, *ROWS],
        default=list(Group),
        metavar="ROW",
        help=f"groups ({', '.join(Group)}) or rows ({', '.join(ROWS)})",
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the tables to this file; in a file that has places for the tables of "
        "the groups, such as docs/performance.md, they are replaced",
    )
    read = parser.parse_args(arguments)
    return Wanted(
        rounds=read.rounds,
        rows=tuple(
            name for name, row in ROWS.items() if name in read.only or row.group in read.only
        ),
        markdown=read.markdown,
    )


def main(arguments: Sequence[str]) -> int:
    """Measure the selected rows, and return the exit code."""
    wanted = parse(arguments)
    try:
        with _scratch_directory() as scratch, _cleanup() as cleanup:
            bench = Bench(rounds=wanted.rounds, scratch=scratch, cleanup=cleanup)
            facts = machine(scratch)
            lines = list(_measured(bench, wanted.rows))
    except KeyboardInterrupt:
        return INTERRUPTED
    facts |= {**bench.facts, **load("load at the end"), "rounds": str(wanted.rounds)}
    texts = _documents(facts, lines, wanted)
    sys.stdout.write("\n".join(texts.values()))
    if wanted.markdown:
        publish(texts, wanted.markdown)
    return FAILED if any(line.failed for line in lines) else 0


def _documents(facts: dict[str, str], lines: Sequence[Line], wanted: Wanted) -> dict[str, str]:
    """Return the tables of each group of which a row was selected."""
    texts = {}
    for group in Group:
        names = [name for name, row in ROWS.items() if row.group is group]
        if set(names) & set(wanted.rows):
            texts[str(group)] = document(
                facts,
                [line for line in lines if line.row in names],
                rounds=wanted.rounds,
                not_selected=[name for name in names if name not in wanted.rows],
            )
    return texts


def _measured(bench: Bench, rows: Sequence[str]) -> Iterator[Line]:
    no_docker = why_no_docker()
    for name in rows:
        row = ROWS[name]
        if row.docker and no_docker:
            yield Line(row=name, measured="left out", notes=no_docker)
            continue
        if row.peers and (no_peers := why_no_peers(bench)):
            yield Line(row=name, measured="left out", notes=no_peers)
            continue
        bench.say(f"{name} ...")
        began = time.monotonic()
        try:
            yield from row.measure(bench)
        except Exception as error:
            # A failed row does not lose the results of the others.
            bench.say(traceback.format_exc())
            reason = (str(error).splitlines() or [""])[-1]
            yield Line(
                row=name,
                measured="failed",
                failed=True,
                notes=f"{type(error).__name__}: {reason}",
            )
        bench.say(f"{name}: {time.monotonic() - began:.0f} s")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} rounds measure nothing")
    return number


@contextmanager
def _scratch_directory() -> Iterator[Path]:
    # Not TemporaryDirectory: some files belong to the account of the servers.
    directory = Path(tempfile.mkdtemp(prefix="huleedu-benchmark-"))
    try:
        # If root runs this, the servers run under another account, which needs access.
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _cleanup() -> Iterator[ExitStack]:
    """Let signals end the run, but not its cleanup."""
    for number in SIGNALS:
        # A shell may start this process with Ctrl-C ignored, which its children inherit.
        signal.signal(number, _interrupt)
    with ExitStack() as cleanup:
        try:
            yield cleanup
        finally:
            _ignore_signals()


def _interrupt(*_: object) -> None:
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
