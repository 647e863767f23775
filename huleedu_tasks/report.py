"""What happened, as values: the screen, the JSON and the exit code are all read off these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from huleedu_tasks.errors import ExitCode

SCHEMA_VERSION = 1

Fact = str | int | float | bool | None | Sequence[str]


class Status(StrEnum):
    """How the work on one service ended."""

    OK = "OK"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"


class State(StrEnum):
    """The state of a database, where a command was asked for it."""

    BEHIND = "BEHIND"
    UNKNOWN_REVISION = "UNKNOWN REVISION"
    UNREACHABLE = "UNREACHABLE"


class Level(StrEnum):
    """How grave a problem is: an error stands in the way of a migration."""

    ERROR = "ERROR"
    WARNING = "WARNING"
    INFO = "INFO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that was found about a service: what it is, and what to do about it.

    Attributes:
        handled: Whether the tasks handle it automatically; None if it is information only.
        code: The stable name of this kind of problem; empty if it has none.
    """

    level: Level
    cause: str
    remedy: str = ""
    handled: bool | None = None
    code: str = ""

    def as_json(self) -> dict[str, object]:
        """Return what stands in the JSON document."""
        handled = {} if self.handled is None else {"handled": self.handled}
        code = {"code": self.code} if self.code else {}
        problem = {"level": str(self.level), "cause": self.cause, "remedy": self.remedy}
        return {**problem, **code, **handled}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRevision:
    """A revision that would run.

    Attributes:
        path: Its file, relative to the root of the monorepo.
        sha256: What its file holds, as a hash.
        sql: What it would do; None if that shows only when it runs.
        problems: What its statements lock or destroy.
    """

    revision: str
    message: str
    path: str
    sha256: str
    sql: str | None = None
    problems: tuple[Problem, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return what stands in the JSON document."""
        return {
            "revision": self.revision,
            "message": self.message,
            "path": self.path,
            "sha256": self.sha256,
            "sql": self.sql,
            "problems": [problem.as_json() for problem in self.problems],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRevision:
    """A revision that has run, as the database itself says.

    Attributes:
        seconds: How long it took, as far as that is known.
    """

    revision: str
    message: str
    seconds: float | None = None

    def as_json(self) -> dict[str, object]:
        """Return what stands in the JSON document."""
        return {"revision": self.revision, "message": self.message, "seconds": self.seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the work on one service ended, and why.

    Attributes:
        detail: The reason, in a sentence; for a failure its cause.
        hint: What to do next.
        code: The stable name of the failure; empty if it has none.
        seconds: How long it took.
        output: What the service's own code printed, shown in full if it failed.
        facts: What a command has to tell about the service beyond that.
        problems: What was found about it; None if that was not asked.
        revisions: Those that would run, or have run; None if that was not asked.
        state: The state of the database, shown in place of the status; None if it is at head or
            the command is not about states.
        exit_code: What this outcome makes of the whole run.
    """

    service: str
    status: Status = Status.OK
    detail: str = ""
    hint: str = ""
    code: str = ""
    seconds: float = 0.0
    output: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    problems: tuple[Problem, ...] | None = None
    revisions: tuple[PlannedRevision, ...] | tuple[AppliedRevision, ...] | None = None
    state: State | None = None
    exit_code: ExitCode = ExitCode.DONE

    @property
    def word(self) -> str:
        """The state, or else the status, as the screen shows it."""
        return str(self.state or self.status)

    def __bool__(self) -> bool:
        return self.status is Status.OK

    def judged(self, problems: tuple[Problem, ...]) -> "Outcome":
        """Return it with what was found; an error among it makes it a failure."""
        counts = {level: sum(problem.level is level for problem in problems) for level in Level}
        failed = counts[Level.ERROR] > 0
        return replace(
            self,
            status=Status.FAILED if failed else Status.OK,
            exit_code=ExitCode.FAILED if failed else ExitCode.DONE,
            detail=", ".join(f"{count} {level}" for level, count in counts.items() if count),
            problems=problems,
        )

    def followed_by(self, later: "Outcome") -> "Outcome":
        """Return the outcome of two pieces of work done one after the other."""
        details = [detail for detail in (self.detail, later.detail) if detail]
        return replace(
            later,
            detail=", ".join(details) if later else later.detail,
            seconds=self.seconds + later.seconds,
            facts={**self.facts, **later.facts},
        )

    def as_json(self) -> dict[str, object]:
        """Return what stands in the JSON document for this service."""
        return {
            "service": self.service,
            "status": str(self.status),
            **({"state": str(self.state)} if self.state else {}),
            "detail": self.detail,
            "hint": self.hint,
            "seconds": round(self.seconds, 3),
            **{name: list(v) if isinstance(v, tuple) else v for name, v in self.facts.items()},
            **{
                name: [item.as_json() for item in items]
                for name, items in (("problems", self.problems), ("revisions", self.revisions))
                if items is not None
            },
            **({} if self else {"code": self.code, "output": self.output}),
        }


class Progress(Protocol):
    """Somebody who wants to know how far the work is."""

    def step(self, service: str, text: str) -> None:
        """Hear that a service has begun a step."""

    def done(self, outcome: Outcome) -> None:
        """Hear how a service's work ended."""


class Silence:
    """Nobody who wants to know."""

    def step(self, service: str, text: str) -> None:
        """Say nothing."""

    def done(self, outcome: Outcome) -> None:
        """Say nothing."""


class Result(Protocol):
    """What a command hands to the screen."""

    @property
    def exit_code(self) -> ExitCode:
        """What the process ends with."""

    def as_json(self) -> dict[str, object]:
        """Return the JSON document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcomes of one command over its services, in registry order.

    Attributes:
        columns: The facts shown as columns of the table, by name.
        seconds: How long the whole command took.
        dry_run: Whether nothing was changed, only said.
        pending: Whether the command was asked to check, and work is left to do.
        places: Servers that are not ours to lose, each with its services; the screen begins
            with them.
        notes: What else is to be known of the whole run, in sentences.
        general: What was found that is about no service; None if that was not asked.
    """

    command: str
    environment: str
    provider: str
    provider_reason: str
    outcomes: tuple[Outcome, ...]
    columns: tuple[str, ...] = ()
    seconds: float = 0.0
    dry_run: bool = False
    pending: bool = False
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    general: tuple[Problem, ...] | None = None

    @property
    def problems(self) -> dict[Problem, list[str]]:
        """Everything that was found, the gravest first, each with the services it is about."""
        found: dict[Problem, list[str]] = {problem: [] for problem in self.general or ()}
        for outcome in self.outcomes:
            for problem in outcome.problems or ():
                found.setdefault(problem, []).append(outcome.service)
        order = list(Level)
        return dict(sorted(found.items(), key=lambda item: order.index(item[0].level)))

    @property
    def exit_code(self) -> ExitCode:
        """The gravest of the outcomes' exit codes."""
        codes = {outcome.exit_code for outcome in self.outcomes}
        if any(outcome.status in (Status.FAILED, Status.ABORTED) for outcome in self.outcomes):
            codes.add(ExitCode.FAILED)
        if any(problem.level is Level.ERROR for problem in self.general or ()):
            codes.add(ExitCode.FAILED)
        for code in (
            ExitCode.TERMINATED,
            ExitCode.INTERRUPTED,
            ExitCode.HUNG_UP,
            ExitCode.REFUSED,
            ExitCode.USAGE,
            ExitCode.FAILED,
        ):
            if code in codes:
                return code
        return ExitCode.PENDING if self.pending else ExitCode.DONE

    def ended_by(self, code: ExitCode) -> "Report":
        """Return the report of a run that was interrupted by a signal and not by Ctrl-C.

        Args:
            code: What stands for that signal.
        """
        outcomes = [
            replace(o, exit_code=code) if o.exit_code is ExitCode.INTERRUPTED else o
            for o in self.outcomes
        ]
        return replace(self, outcomes=tuple(outcomes))

    def as_json(self) -> dict[str, object]:
        """Return the JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "environment": self.environment,
            "provider": {"name": self.provider, "reason": self.provider_reason},
            "dry_run": self.dry_run,
            "exit_code": int(self.exit_code),
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            **(
                {}
                if self.general is None
                else {"general": [problem.as_json() for problem in self.general]}
            ),
            "services": [outcome.as_json() for outcome in self.outcomes],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Rows to look at; nothing was done.

    Attributes:
        key: The name of the rows in the JSON document.
        columns: The names of the cells shown in the table; a row may hold more for the JSON.
    """

    command: str
    key: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Fact], ...]
    exit_code: ExitCode = ExitCode.DONE

    def as_json(self) -> dict[str, object]:
        """Return the JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "exit_code": int(self.exit_code),
            self.key: [dict(row) for row in self.rows],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """A registry made from what is there.

    Attributes:
        path: Where it lies, or would lie.
        document: The registry.
        fields: What is stated, each with its service and the evidence.
        unsettled: What nobody could settle, each with its service and the question.
        shown: The document as text, or how it differs from the one that is there.
        closing: What came of it, and what to do next.
    """

    command: str
    path: str
    written: bool
    document: Mapping[str, object]
    fields: tuple[Mapping[str, Fact], ...]
    unsettled: tuple[Mapping[str, Fact], ...] = ()
    remarks: tuple[str, ...] = ()
    shown: str = ""
    closing: tuple[str, ...] = ()
    exit_code: ExitCode = ExitCode.DONE

    def as_json(self) -> dict[str, object]:
        """Return the JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "exit_code": int(self.exit_code),
            "path": self.path,
            "written": self.written,
            "registry": dict(self.document),
            "fields": [dict(row) for row in self.fields],
            "unsettled": [dict(row) for row in self.unsettled],
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A result that is a sentence."""

    command: str
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    exit_code: ExitCode = ExitCode.DONE

    def __str__(self) -> str:
        return self.text

    def as_json(self) -> dict[str, object]:
        """Return the JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "exit_code": int(self.exit_code),
            "message": self.text,
            **self.facts,
        }
