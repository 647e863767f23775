"""Shared by the rows: the number of rounds, and monorepos created at their first use."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.children import INVOKE, run
from benchmarks.containers import docked_copy
from benchmarks.measure import FEW_ROUNDS, Cost, Side, Timing, costs_in_turn, in_turn
from benchmarks.monorepo import Monorepo, ask, copy_of_this

NOTHING = '''\
from invoke.tasks import task


@task
def nothing(_):
    """Do nothing."""
'''


@dataclass(kw_only=True)
class Bench:
    """One run of the benchmarks.

    Attributes:
        rounds: How often everything is measured.
        scratch: The directory everything lies in.
        cleanup: Whatever must be done at the end.
        facts: What the rows have learnt about the machine.
    """

    rounds: int
    scratch: Path
    cleanup: ExitStack
    facts: dict[str, str] = field(default_factory=dict)
    _known: dict[str, tuple[Timing, ...]] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print the progress on standard error."""
        sys.stderr.write(f"{text}\n")

    def measure(self, *sides: Side, warm_up: bool = True) -> tuple[Timing, ...]:
        """Measure the sides alternately, after a warm-up."""
        return in_turn(self.rounds, *sides, warm_up=warm_up)

    def measure_few(self, *sides: Side, warm_up: bool = True) -> tuple[Timing, ...]:
        """Measure sides of which some take long, in few rounds."""
        return in_turn(min(self.rounds, FEW_ROUNDS), *sides, warm_up=warm_up)

    def costs(self, *sides: Side, warm_up: bool = True) -> tuple[Cost, ...]:
        """Measure the sides alternately, and their processor time as well."""
        return costs_in_turn(self.rounds, *sides, warm_up=warm_up)

    def once(self, row: str, measure: Callable[[], tuple[Timing, ...]]) -> tuple[Timing, ...]:
        """Measure once what several rows show."""
        if row not in self._known:
            self._known[row] = measure()
        return self._known[row]

    @cached_property
    def embedded(self) -> Monorepo:
        """This repository with embedded servers, after a reset."""
        made = copy_of_this(self.scratch, "embedded", HULEEDU_PROVIDER="embedded")
        return self._reset(self.cleanup.enter_context(made), "embedded")

    @cached_property
    def docked(self) -> Monorepo:
        """This repository with its databases in containers, after a reset."""
        return self._reset(self.cleanup.enter_context(docked_copy(self.scratch)), "Docker")

    @cached_property
    def bare(self) -> Path:
        """A directory with one task that does nothing, and without this package."""
        directory = self.scratch / "bare-invoke"
        directory.mkdir()
        (directory / "tasks.py").write_text(NOTHING, encoding="utf-8")
        return directory

    def bare_side(self, *arguments: str) -> Side:
        """Return bare Invoke as a side: `invoke nothing`, or other arguments."""
        command = [INVOKE, *(arguments or ["nothing"])]
        return Side(run=lambda: run(command, cwd=self.bare, environment={}))

    def _reset(self, monorepo: Monorepo, provider: str) -> Monorepo:
        monorepo.reset()
        login = monorepo.login(monorepo.entries[0]["port"])
        version: str = ask(login, "SHOW server_version")
        self.facts[f"PostgreSQL, {provider}"] = version.partition(" ")[0]
        return monorepo
