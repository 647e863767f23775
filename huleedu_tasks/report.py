"""The results of commands, as values that define the screen, the JSON and the exit code."""

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
    """The state of a database, of revisions or of a schema file; in the order of the summary."""

    BEHIND = "BEHIND"
    EDITED = "EDITED"
    DRIFTED = "DRIFTED"
    MIGRATING = "MIGRATING"
    UNKNOWN_REVISION = "UNKNOWN REVISION"
    UNREACHABLE = "UNREACHABLE"
    FINDINGS = "FINDINGS"
    STALE = "STALE"


class Level(StrEnum):
    """The severity of a problem; an error prevents a migration."""

    ERROR = "ERROR"
    WARNING = "WARNING"
    INFO = "INFO"


class Kind(StrEnum):
    """What is wrong with a statement of a planned revision."""

    DESTROYS = "destroys"
    LOCKS = "locks"
    OTHER = "other"
    STYLE = "style"


SAFER = "A safer approach is to:"
DANGERS = (Kind.DESTROYS, Kind.LOCKS, Kind.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem of a service, with its cause and its remedy.

    Attributes:
        cause: The cause, in one sentence.
        remedy: What to do about it; an empty string if nothing.
        steps: The steps of a safer approach, in order; empty if there are none.
        handled: Whether the tasks handle it automatically; None if it is information only.
        code: The stable code of this kind of problem; an empty string if it has none.
        kind: What the statement does; None if the problem is not one of a revision's SQL.
        statement: The statement that has the problem; an empty string if there is none.
        path: The file to correct, relative to the root of the monorepo; an empty string if the
            problem is not one of a file.
        line: The line in that file, from 1; None if it is not known.
    """

    level: Level
    cause: str
    remedy: str = ""
    steps: tuple[str, ...] = ()
    handled: bool | None = None
    code: str = ""
    kind: Kind | None = None
    statement: str = ""
    path: str = ""
    line: int | None = None

    @property
    def place(self) -> str:
        """The file with the line; an empty string if the problem is not one of a file."""
        return f"{self.path}:{self.line}" if self.path and self.line else self.path

    @property
    def is_danger(self) -> bool:
        """Whether it is a danger of a planned revision, and more than information."""
        return self.kind in DANGERS and self.level is not Level.INFO

    @property
    def advice(self) -> str:
        """The remedy and the numbered steps, each on a line; an empty string if there are none."""
        numbered = [f"{number}. {step}" for number, step in enumerate(self.steps, start=1)]
        safer = [SAFER, *numbered] if self.steps else []
        return "\n".join(filter(None, (self.remedy, *safer)))

    def as_json(self) -> dict[str, object]:
        """Return the JSON object."""
        of_sql = {"kind": str(self.kind)} if self.kind else {}
        if self.kind or self.statement:
            of_sql["statement"] = self.statement
        handled = {} if self.handled is None else {"handled": self.handled}
        code = {"code": self.code} if self.code else {}
        place: dict[str, object] = {"path": self.path} if self.path else {}
        if self.line:
            place["line"] = self.line
        problem = {"level": str(self.level), "cause": self.cause, "remedy": self.remedy}
        steps = {"steps": list(self.steps)} if self.steps else {}
        return {**problem, **steps, **code, **handled, **of_sql, **place}


class Change(StrEnum):
    """How an object of the actual schema differs from the expected one."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference between two schemas.

    Attributes:
        label: The label of the object, for example `column public.note.body`.
        parts: The labels of the objects that belong to it and are missing or extra with it.
        diff: The definitions as a unified diff: `-` is expected, `+` is actual.
        digest: Of the change and both whole definitions, by which a plan accepts it.
    """

    change: Change
    label: str
    parts: tuple[str, ...]
    diff: str
    digest: str

    def __str__(self) -> str:
        count = len(self.parts)
        parts = f", with {count} part{'s' * (count > 1)}" if count else ""
        return f"{self.label}: {self.change}{parts}"

    def as_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {
            "object": self.label,
            "change": str(self.change),
            "parts": list(self.parts),
            "diff": self.diff,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRevision:
    """A revision that would be applied.

    Attributes:
        path: Its file, relative to the root of the monorepo.
        sha256: The hash of its file.
        sql: Its statements; None if they are known only when it runs.
        problems: The locks and losses of data that its statements cause.
    """

    revision: str
    message: str
    path: str
    sha256: str
    sql: str | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def dangers(self) -> tuple[Problem, ...]:
        """The problems that are more than style."""
        return tuple(problem for problem in self.problems if problem.kind in DANGERS)

    def as_json(self) -> dict[str, object]:
        """Return the JSON object."""
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
    """A revision that was applied, as read from the database.

    Attributes:
        seconds: How long it took; None if that is not known.
    """

    revision: str
    message: str
    seconds: float | None = None

    def as_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {"revision": self.revision, "message": self.message, "seconds": self.seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedRevision:
    """A revision that was applied, undone and applied again.

    Attributes:
        path: Its file, relative to the root of the monorepo; its problems have the same.
    """

    revision: str
    message: str
    path: str


class Place(StrEnum):
    """Where a revision is, compared with a database or with the base branch."""

    APPLIED = "applied"
    PENDING = "pending"
    NEW = "new"
    OTHER = "other branch"
    PLAIN = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRevision:
    """A revision in the graph of a history.

    Attributes:
        parents: The revisions that must be applied before it.
        place: Where it is; empty if it is compared with nothing.
        labels: What is at it: `database`, `head`, or the name of the base branch.
    """

    revision: str
    message: str
    parents: tuple[str, ...]
    place: Place = Place.PLAIN
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """An earlier run that changed databases.

    Attributes:
        began: When it began, in ISO 8601.
        outcome: The name of its exit status.
        migrated: The services that it migrated.
    """

    run: str
    began: str
    who: str
    outcome: str
    migrated: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A moment of a run.

    Attributes:
        time: The time of day, and how long the run had taken; empty if it is that of the moment
            before.
        service: The service; an empty string for the whole run.
    """

    time: str
    service: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the work on one service ended, and why.

    Attributes:
        detail: The reason, in a sentence; the cause if it failed.
        hint: The next step; an empty string if none.
        code: The stable code of the error; an empty string if it has none.
        seconds: How long the work took.
        output: The output of the service's own code, shown in full if it failed.
        facts: Further values that the command reports about the service, by name.
        problems: The problems of the service; None if the command does not look for problems.
        revisions: The revisions to apply, or that were applied; None if the command does not
            report revisions.
        differences: The drift of its schema; None if the command does not look for drift.
        tested: The revisions that were tested, with and without problems.
        graph: Its revisions, parents first; empty if the command does not compare them.
        state: The state of the database, shown in place of the status; None if it is at head or
            the command does not report states.
        exit_code: The exit code that this outcome requires of the command.
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
    differences: tuple[Difference, ...] | None = None
    tested: tuple[RehearsedRevision, ...] = ()
    graph: tuple[GraphRevision, ...] = ()
    state: State | None = None
    exit_code: ExitCode = ExitCode.DONE

    @property
    def word(self) -> str:
        """The state, or else the status, as the screen shows it."""
        return str(self.state or self.status)

    @property
    def planned(self) -> tuple[PlannedRevision, ...]:
        """The revisions to apply; empty if none, and after they were applied."""
        return tuple(r for r in self.revisions or () if isinstance(r, PlannedRevision))

    @property
    def applied(self) -> tuple[AppliedRevision, ...]:
        """The revisions that were applied; empty if none."""
        return tuple(r for r in self.revisions or () if isinstance(r, AppliedRevision))

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to say about it but that it is done."""
        return not (self.word != Status.OK or self.planned or self.problems or self.differences)

    @property
    def is_unfinished(self) -> bool:
        """Whether the work was not done, and not because of a problem that it lists."""
        has_errors = any(problem.level is Level.ERROR for problem in self.problems or ())
        return self.status in (Status.FAILED, Status.ABORTED) and not has_errors

    def __bool__(self) -> bool:
        return self.status is Status.OK

    def with_problems(self, problems: tuple[Problem, ...]) -> "Outcome":
        """Return the outcome with problems; an error among them makes it a failure."""
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
        """Return the combined outcome of this stage and a later one."""
        details = [detail for detail in (self.detail, later.detail) if detail]
        return replace(
            later,
            detail=", ".join(details) if later else later.detail,
            seconds=self.seconds + later.seconds,
            facts={**self.facts, **later.facts},
            graph=later.graph or self.graph,
        )

    def as_json(self) -> dict[str, object]:
        """Return the JSON object of this service."""
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
                for name, items in (
                    ("problems", self.problems),
                    ("revisions", self.revisions),
                    ("drift", self.differences),
                )
                if items is not None
            },
            **({} if self else {"code": self.code, "output": self.output}),
        }


class Progress(Protocol):
    """Receives the progress of the work."""

    def step(self, service: str, text: str) -> None:
        """Report that a service has begun a step."""

    def done(self, outcome: Outcome) -> None:
        """Report the outcome of a service."""


class StepsOnly:
    """A `Progress` that passes steps and successes on, for work whose failure changes no result."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def step(self, service: str, text: str) -> None:
        """Pass on that a service has begun a step."""
        self._progress.step(service, text)

    def done(self, outcome: Outcome) -> None:
        """Pass on that a service's work ended well."""
        if outcome:
            self._progress.done(outcome)


class Silence:
    """A `Progress` that ignores everything."""

    def step(self, service: str, text: str) -> None:
        """Say nothing."""

    def done(self, outcome: Outcome) -> None:
        """Say nothing."""


class Result(Protocol):
    """The result of a command, for the screen."""

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of the process."""

    def as_json(self) -> dict[str, object]:
        """Return the JSON document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcomes of one command over its services, in registry order.

    Attributes:
        columns: The facts shown as columns of the table, by name.
        seconds: How long the whole command took.
        dry_run: Whether this was a dry run.
        pending: Whether a database is not at head or not as the revision files describe, in the
            commands whose exit code says so.
        places: The servers of staging or production, each with its services, which the screen
            shows first; empty in development and testing.
        notes: Further sentences about the whole run.
        general: The problems that do not belong to a service; None if the command does not look
            for problems.
        sql: Whether the screen shows the SQL of planned revisions.
        instance: The name of the instance, and the reason for it; empty for the main fleet.
        plan: The document of a plan file; empty if the command makes no plan.
        past: The earlier runs, the latest first.
        moments: What happened in one earlier run.
        course: What happens when the plan is carried out, in sentences; only a page shows it.
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
    sql: bool = False
    instance: Mapping[str, str] = field(default_factory=dict)
    plan: Mapping[str, object] = field(default_factory=dict)
    past: tuple[PastRun, ...] = ()
    moments: tuple[Moment, ...] = ()
    course: tuple[str, ...] = ()

    @property
    def dangers(self) -> dict[Problem, list[str]]:
        """The dangers of the planned revisions, each with the services and revisions it is in."""
        found: dict[Problem, list[str]] = {}
        for outcome in self.outcomes:
            for revision in outcome.planned:
                for problem in revision.dangers:
                    found.setdefault(problem, []).append(f"{outcome.service} {revision.revision}")
        return _most_severe_first(found)

    @property
    def problems(self) -> dict[Problem, list[str]]:
        """All problems, most severe first, each with the services that have it."""
        found: dict[Problem, list[str]] = {problem: [] for problem in self.general or ()}
        for outcome in self.outcomes:
            for problem in outcome.problems or ():
                found.setdefault(problem, []).append(outcome.service)
        return _most_severe_first(found)

    @property
    def exit_code(self) -> ExitCode:
        """The most severe of the outcomes' exit codes."""
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
        """Return the report of a run that a signal interrupted, and not Ctrl-C.

        Args:
            code: The exit code for that signal.
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
            **({"instance": dict(self.instance)} if self.instance else {}),
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


def _most_severe_first(found: Mapping[Problem, list[str]]) -> dict[Problem, list[str]]:
    order = list(Level)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0].level)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Rows of a command that only shows something.

    Attributes:
        key: The key of the rows in the JSON document.
        columns: The columns of the table; a row may contain more values, for the JSON.
        shown: What the screen shows instead of the rows: headers and cells, of which the last is
            wrapped in its column; empty to show the rows.
        page: The same as a report, for a page; None if it has no page.
    """

    command: str
    key: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Fact], ...]
    shown: tuple[tuple[str, ...], ...] = ()
    page: Report | None = None
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
    """The result of discovery.

    Attributes:
        path: The path of the registry, which need not exist.
        written: Whether the registry was written.
        document: The registry.
        fields: The fields it states, each with its service and the evidence.
        unsettled: The open questions, each with its service and field.
        remarks: Further sentences about the repository.
        shown: The registry as JSON, or its difference from the existing one.
        closing: The outcome and the next step, in sentences.
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
    """A result that is one sentence."""

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
