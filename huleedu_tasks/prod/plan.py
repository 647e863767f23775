"""`prod.plan`: what a migration would run, lock and destroy; read-only."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks import parallel
from huleedu_tasks.config.hosts import host_of
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ExitCode
from huleedu_tasks.migrations import squawk
from huleedu_tasks.migrations.edits import AppliedFile, applied_files
from huleedu_tasks.migrations.hazard_rules import UPGRADE_FAILED
from huleedu_tasks.migrations.hazards import find_hazards
from huleedu_tasks.migrations.observed_hazards import HeldLock, held_after, relations_after
from huleedu_tasks.migrations.results import Rendered
from huleedu_tasks.migrations.revision_findings import find_in_revision
from huleedu_tasks.migrations.revision_graph import graph_of_database
from huleedu_tasks.migrations.revisions import Revision, named
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres.databases import parse_tag
from huleedu_tasks.postgres.inspection import (
    Identity,
    Relation,
    identify,
    read_relations,
    tables_of,
)
from huleedu_tasks.prod.plan_course import Changing, course_of
from huleedu_tasks.prod.plan_file import PlanEntry, plan_document, stale, write_plan
from huleedu_tasks.prod.plan_rehearsal import Rehearsed, failure_in, rehearse
from huleedu_tasks.prod.problems import Validated
from huleedu_tasks.prod.production import Production, Targets
from huleedu_tasks.prod.sql_rendering import approval_of
from huleedu_tasks.prod.target import Target, reach
from huleedu_tasks.prod.validate import validate_all
from huleedu_tasks.report import Difference, Kind, Level, Outcome, PlannedRevision, Problem, Report
from huleedu_tasks.repository import commit_of, shown

if TYPE_CHECKING:
    import asyncpg

COMMAND = "prod.plan"
NEXT = (
    "Next: run the same command with `--out FILE`, have the plan reviewed, and carry it out with "
    "`invoke prod.migrate --plan FILE`."
)
NEXT_OF_FILE = "Next: have the plan reviewed, then run `invoke prod.migrate --plan {file}`."
COLUMNS = ("from", "to", "pending", *Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The planned changes of one service's database.

    Attributes:
        target: The database, with its service and the history that was planned.
        pin: The plan entry.
        identity: The identity of the database, valid until its server is restarted.
        revisions: The pending revisions, in the order of the run; empty if none.
        tags: Whether the run sets the environment tag, which the database does not have yet.
        applied: What the environment tag states about the revisions that runs have applied.
        is_tagged: Whether the database has an environment tag to which the run may add.
        is_migrating: Whether its schema was not compared, because another run migrates it.
        fingerprint: A digest of the schema that was compared; an empty string if none was.
        tables: Its tables by `schema.name`, with their sizes; empty if nothing is pending.
        rehearsal: How the rehearsal of the revisions ended; None if they were not rehearsed.
    """

    target: Target
    pin: PlanEntry
    identity: Identity
    revisions: tuple[PlannedRevision, ...]
    tags: bool
    applied: Mapping[str, AppliedFile] = field(default_factory=dict)
    is_tagged: bool = False
    is_migrating: bool = False
    fingerprint: str = ""
    tables: Mapping[str, Relation] = field(default_factory=dict)
    rehearsal: Rehearsed | None = None

    @property
    def is_rehearsed(self) -> bool | None:
        """Whether all revisions ran in the rehearsal; None if nothing is pending."""
        if not self.revisions:
            return None
        ran = self.rehearsal.revisions if self.rehearsal else {}
        return all(one.revision in ran and not ran[one.revision].failure for one in self.revisions)

    @property
    def rehearsing(self) -> str:
        """How the rehearsal ended, for a table; an empty string if there was none."""
        if self.rehearsal is None:
            return ""
        if self.rehearsal.problem:
            return "not rehearsed"
        return "rehearsed" if self.is_rehearsed else "failed in the rehearsal"

    @property
    def host(self) -> str:
        """The host of its server, in lower case, without the port."""
        return host_of(self.pin.server).lower()

    @property
    def changes(self) -> bool:
        """Whether the run would change the database."""
        return bool(self.revisions) or self.tags

    @property
    def changing(self) -> Changing:
        """What those who approve the plan need to know of the run."""
        return Changing(
            service=self.target.service,
            host=self.host,
            has_revisions=bool(self.revisions),
            is_rehearsed=self.is_rehearsed,
            is_lossy=bool(self.counts[Kind.DESTROYS]),
        )

    @property
    def tagging(self) -> str:
        """That the run sets the environment tag; an empty string if it does not."""
        return f"will be tagged as {self.target.environment}" if self.tags else ""

    @property
    def counts(self) -> dict[Kind, int]:
        """The number of dangers of the revisions, by their kind, and of matters of style."""
        kinds = Counter(
            problem.kind
            for revision in self.revisions
            for problem in revision.problems
            if problem.is_danger or problem.kind is Kind.STYLE
        )
        return {kind: kinds[kind] for kind in Kind}

    @property
    def place(self) -> tuple[str, str, int]:
        """The address, name and OID of the database, unique within a run."""
        return self.pin.server, self.pin.database, self.pin.database_oid

    def as_json(self) -> dict[str, object]:
        """Return the entry of the plan file."""
        return {
            **self.pin.as_json(),
            "inputs": dict(self.pin.approval.inputs),
            "revisions": [revision.as_json() for revision in self.revisions],
            "rehearsed": self.is_rehearsed,
            "tables": {
                name: {"rows": table.rows, "bytes": table.size}
                for name, table in sorted(self.tables.items())
            },
        }

    def is_done(self, now: PlanEntry) -> bool:
        """Whether the database is already at exactly the planned revisions.

        Args:
            now: The current plan entry of the same service.
        """
        arrived = replace(self.pin, before=self.pin.after, files={})
        return bool(self.revisions) and not stale(arrived, now)


async def plan(
    production: Production, *, out: Sequence[Path], pages: Sequence[Path] | None = None, sql: bool
) -> Report:
    """Report what a migration would run.

    Args:
        sql: Whether the screen shows the SQL.
        out: The plan files to write, for `prod.migrate --plan`.
        pages: The pages that will have the plan in them, of which one may be printed; None if the
            report is not written as a page.

    Raises:
        ConfigurationError: If the configuration has errors, or the file cannot be written.
    """
    async with production.targets(COMMAND) as targets:
        outcomes, planned = await plan_all(production, targets)
        report = production.report(COMMAND, outcomes, COLUMNS, targets)
    changing = [entry for entry in planned.values() if entry.changes]
    if report.exit_code is ExitCode.DONE and (out or pages is not None):
        document = plan_document(
            [entry.as_json() for entry in changing],
            environment=str(production.settings.environment),
            commit=commit_of(production.root),
            redact=production.redact,
        )
        for path in out:
            write_plan(path, document)
        report = replace(report, plan=document)
        if changing and pages is not None:
            course = course_of([entry.changing for entry in changing], production.settings)
            report = replace(report, course=tuple(course))
    notes = _notes(report, out, pages or (), changes=bool(changing))
    return replace(report, sql=sql, notes=notes)


def _notes(
    report: Report, out: Sequence[Path], pages: Sequence[Path], *, changes: bool
) -> tuple[str, ...]:
    """Return where the plan is, and the next command to type."""
    if report.exit_code is not ExitCode.DONE:
        without = (f"{page} has no plan in it because of the errors above." for page in pages)
        return (*(f"{path} was not written because of the errors above." for path in out), *without)
    written = tuple(f"The plan was written to {path}." for path in out)
    if not changes:
        return written
    files = (*out, *pages)
    return (*written, NEXT_OF_FILE.format(file=files[0]) if files else NEXT)


async def plan_all(
    production: Production, targets: Targets
) -> tuple[tuple[Outcome, ...], dict[str, Planned]]:
    """Validate all services, and plan those without errors.

    Returns:
        One outcome for each service, and the plans by the name of their service, in registry
        order.
    """
    outcomes, found = await validate_all(production, targets)
    planned: dict[str, Planned] = {}

    async def work_out(service: Service, step: Step) -> Outcome:
        step("planning")
        validated = found[service.name]
        entry = await plan_database(validated, production, step=step)
        planned[service.name] = entry
        return _outcome(validated, entry)

    outcomes = await parallel.run_next(
        production.services,
        [replace(outcome, detail="") if outcome else outcome for outcome in outcomes],
        work_out,
        jobs=production.settings.jobs,
        progress=production.progress,
    )
    return outcomes, {name: planned[name] for name in targets if name in planned}


async def plan_database(validated: Validated, production: Production, *, step: Step) -> Planned:
    """Plan the pending revisions of a database, with their SQL and hazards; read-only.

    Args:
        validated: A target whose facts were read and whose revisions are in the files.
        production: The settings, and the rehearsals if the revisions are rehearsed.

    Raises:
        ServerError: If the database does not answer.
        HuleEduError: If the history or the revisions could not be read.
    """
    target, facts = validated.target, validated.facts
    settings, root = production.settings, production.root
    assert facts is not None
    history, current = target.known_history, validated.known_revisions
    pin = replace(_pin(target, facts.identity, current), drift=_accepted(validated.drift))
    pending = history.between(current, history.heads)
    tag = parse_tag(pin.database, facts.comment)
    planned = Planned(
        target=target,
        pin=pin,
        identity=facts.identity,
        revisions=(),
        tags=facts.may_tag and tag is None,
        applied=applied_files(tag, target.service.name),
        is_tagged=facts.may_tag and tag is not None,
        is_migrating=validated.is_migrating,
        fingerprint=validated.fingerprint,
    )
    if not pending:
        return planned
    approval, rendered = validated.rendering or await approval_of(
        target, settings, root, identity=facts.identity, current=current
    )
    pin = replace(pin, approval=approval)
    async with reach(target) as opened:
        relations = await read_relations(opened)
    found = await _lint(rendered, pending, settings, root)
    rehearsal = None
    if production.rehearsals:
        rehearsal = await rehearse(validated, pending, settings, production.rehearsals, step=step)
    judgement = _Judgement(
        rendered=rendered, linted=found, rehearsal=rehearsal or Rehearsed(), relations=relations
    )
    revisions = [
        PlannedRevision(
            revision=revision.id,
            message=revision.message,
            path=shown(revision.path, root),
            sha256=pin.files[revision.id],
            sql=rendered.sql.get(revision.id),
            problems=judgement.problems(revision),
        )
        for revision in pending
    ]
    return replace(
        planned,
        pin=pin,
        revisions=tuple(revisions),
        tables=tables_of(relations),
        rehearsal=rehearsal,
    )


@dataclass(kw_only=True)
class _Judgement:
    """The judgement of pending revisions, in their order.

    Attributes:
        linted: What squawk finds, by revision.
        rehearsal: What the revisions did; of a revision that did not run, its SQL is judged.
        relations: The relations of the database, as the revisions before have left them.
        held: The locks that the revisions before have taken and their transaction holds, by table.
    """

    rendered: Rendered
    linted: Mapping[str, Sequence[Problem]]
    rehearsal: Rehearsed
    relations: Mapping[str, Relation]
    held: Mapping[str, HeldLock] = field(default_factory=dict)

    def problems(self, revision: Revision) -> tuple[Problem, ...]:
        """Return the problems of the next revision."""
        linted = self.linted.get(revision.id, ())
        observed = self.rehearsal.revisions.get(revision.id)
        if observed is None:
            return tuple(self._guessed(revision, linted))
        known = self.relations
        held = self.held if observed.continues_transaction else {}
        self.relations = relations_after(observed, known)
        self.held = held_after(observed, known, held)
        found = tuple(
            failure_in(problem) if problem.code == UPGRADE_FAILED.name else _as_warning(problem)
            for problem in find_in_revision(observed, revision, known, linted, held)
        )
        if not observed.failure:
            return found
        judged = {(problem.statement, problem.kind) for problem in found}
        # The statements behind the one that failed were not observed.
        rest = (
            problem
            for problem in self._guessed(revision, ())
            if (problem.statement, problem.kind) not in judged
        )
        return (*found, *rest)

    def _guessed(self, revision: Revision, linted: Sequence[Problem]) -> Iterator[Problem]:
        """Yield the problems that the SQL of a revision suggests."""
        yield from _unrendered(revision, self.rendered)
        yield from find_hazards(self.rendered.sql.get(revision.id, ""), self.relations)
        yield from squawk.judge_findings(linted, self.relations)


async def changes_of_work(
    planned: PlanEntry,
    now: Planned,
    settings: Settings,
    root: Path,
    *,
    redact: Callable[[str], str],
) -> list[str]:
    """Return the differences of the SQL and its input files from the approved ones.

    Args:
        planned: The approved plan entry, for the same database at the same revisions.
        now: The current plan.
        redact: Masks every password in a string, as in the plan file.

    Returns:
        A sentence for each difference; empty list if there is no difference.

    Raises:
        Refused: If `env.py` connects to a different database.
    """
    approved, rendered = (entry.approval.masked(redact) for entry in (planned, now.pin))
    changes = [*approved.changed_inputs(rendered)]
    again = None
    if not changes and any(approved.changed_sql(rendered)):
        # Lines that differ in every rendering, such as one with the time, are ignored.
        repeated, _ = await approval_of(
            now.target, settings, root, identity=now.identity, current=now.pin.before
        )
        again = repeated.masked(redact)
    changes += approved.changed_sql(rendered, again)
    return [f"{planned.service}: {change}" for change in changes]


def pin_at(now: Planned, revisions: tuple[str, ...]) -> PlanEntry:
    """Return the plan entry of the current files for a database at other revisions."""
    return _pin(now.target, now.identity, revisions)


async def pin_now(target: Target, connection: "asyncpg.Connection") -> PlanEntry:
    """Return the current plan entry, from the database and the files as they are now.

    Args:
        target: The database of the service.
        connection: A connection to that database.

    Raises:
        HuleEduError: If the database or the files cannot be read.
    """
    now = replace(target, history=await target.read_history())
    identity = await identify(connection)
    return _pin(now, identity, await now.read_revisions(connection))


def _outcome(validated: Validated, planned: Planned) -> Outcome:
    pin = planned.pin
    details = (planned.rehearsing if planned.revisions else "nothing pending", planned.tagging)
    reason = planned.rehearsal.problem if planned.rehearsal else None
    return Outcome(
        service=pin.service,
        facts={
            "from": named(pin.before),
            "to": named(pin.after),
            "pending": len(planned.revisions),
            "rehearsed": planned.is_rehearsed,
            **{str(kind): count for kind, count in planned.counts.items()},
        },
        detail=", ".join(filter(None, details)),
        problems=tuple(
            p for p in (*validated.problems, *filter(None, [reason])) if p.level is not Level.INFO
        ),
        revisions=planned.revisions,
        differences=validated.drift,
        graph=graph_of_database(planned.target.known_history, pin.before),
    )


def _accepted(drift: tuple[Difference, ...] | None) -> dict[str, str] | None:
    """Return the digests of accepted drift by label; `None` if the schema was not compared."""
    return None if drift is None else {found.label: found.digest for found in drift}


def _pin(target: Target, identity: Identity, current: tuple[str, ...]) -> PlanEntry:
    number = identity.system_identifier
    history = target.known_history
    return PlanEntry(
        service=target.service.name,
        server=target.url.address,
        database=target.url.database,
        database_oid=identity.database_oid,
        # A string, because JavaScript cannot represent a 64-bit integer exactly.
        system_identifier=None if number is None else str(number),
        before=current,
        after=history.heads,
        files={
            revision.id: hashlib.sha256(revision.path.read_bytes()).hexdigest()
            for revision in history.between(current, history.heads)
        },
    )


async def _lint(
    rendered: Rendered, pending: Sequence[Revision], settings: Settings, root: Path
) -> dict[str, tuple[Problem, ...]]:
    program = squawk.find_squawk()
    sql = {r.id: rendered.sql[r.id] for r in pending if r.id in rendered.sql}
    if not program or not sql:
        return {}
    return await squawk.lint(program, sql, root=root, environment=settings.tool_environment())


def _as_warning(problem: Problem) -> Problem:
    """Return a problem that does not prevent the migration."""
    return replace(problem, level=Level.WARNING) if problem.level is Level.ERROR else problem


def _unrendered(revision: Revision, rendered: Rendered) -> Iterator[Problem]:
    if revision.id in rendered.sql:
        return
    reason = rendered.unrendered.get(revision.id) or rendered.problem or "Alembic rendered no SQL"
    yield Problem(
        level=Level.WARNING,
        cause=f"its SQL cannot be rendered before it runs, so its locks are not known ({reason})",
        remedy=f"Read {revision.path.name}: most likely it queries the database.",
        kind=Kind.OTHER,
    )
