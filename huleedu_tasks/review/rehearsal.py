"""`migrations.test`: each revision is applied, undone and applied again.

One process of a service's Alembic does that for all revisions in one throwaway database, and
compares fingerprints of the schema. Only a revision that fails or differs is then examined alone:
each of its steps in a process of its own, and the schemas object by object.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.functions import DOWNGRADE, UPGRADE, has_downgrade, line_of
from huleedu_tasks.migrations.observation import throwaway_observation
from huleedu_tasks.migrations.revisions import History, Revision, named
from huleedu_tasks.migrations.walking import Direction, FailedStep, Step, Walked, walk
from huleedu_tasks.postgres.schema_fingerprint import FINGERPRINT
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.report import Change, Fact, Level, Outcome, Problem, RehearsedRevision, Report
from huleedu_tasks.review.base_branch import new_revisions
from huleedu_tasks.review.review import Review, Reviewed, problem_of
from huleedu_tasks.schema.diff import compare
from huleedu_tasks.schema.dump import dump_schema
from huleedu_tasks.schema.objects import Schema

COMMAND = "migrations.test"
COLUMNS = ("head", "revisions", "tested")
DOWNGRADE_MISSING = "downgrade-missing"
_ENUM_REMAINS = " Alembic does not drop an enum with its table."
_SHOWN = 5


async def rehearse(review: Review) -> Report:
    """Report every revision of each service that fails, or that cannot be undone.

    Raises:
        ConfigurationError: If the base cannot be found.
    """
    return await review.run(COMMAND, COLUMNS, _rehearse)


async def _rehearse(reviewed: Reviewed) -> Outcome:
    history = await reviewed.replays.histories.history(reviewed.service, may_branch=True)
    base = await reviewed.base_revisions()
    tested = history.between((), history.heads) if base is None else new_revisions(history, base)
    rehearsal = Rehearsal(reviewed=reviewed, history=history, tested=tested)
    problems = [*rehearsal.missing_downgrades()]
    problems += [problem async for problem in rehearsal.problems()]
    facts: dict[str, Fact] = {
        "head": named(history.heads),
        "revisions": len(history.revisions),
        "tested": len(tested),
    }
    rehearsed = tuple(
        RehearsedRevision(revision=r.id, message=r.message, path=reviewed.shown(r.path))
        for r in tested
    )
    graph = reviewed.graph(history, base)
    return replace(reviewed.outcome(facts, problems), tested=rehearsed, graph=graph)


@dataclass(kw_only=True)
class Rehearsal:
    """The rehearsal of some revisions of a history.

    Attributes:
        tested: The revisions to rehearse, parents first; the others are only applied.
    """

    reviewed: Reviewed
    history: History
    tested: Sequence[Revision]
    _order: list[str] = field(init=False)
    _reversible: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._order = [r.id for r in self.history.between((), self.history.heads)]
        self._reversible = {revision.id for revision in self.tested if has_downgrade(revision)}

    def missing_downgrades(self) -> Iterator[Problem]:
        """Yield a problem for each revision that cannot be undone."""
        is_required = self.reviewed.replays.settings.require_downgrades
        for revision in self.tested:
            if revision.id not in self._reversible:
                yield Problem(
                    level=Level.ERROR if is_required else Level.WARNING,
                    cause=f"revision {revision.id} has no downgrade(): "
                    f"{self.reviewed.shown(revision.path)}",
                    remedy="Write it, unless the change cannot be undone.",
                    code=DOWNGRADE_MISSING,
                    path=self.reviewed.shown(revision.path),
                    line=line_of(revision, DOWNGRADE),
                )

    async def problems(self) -> AsyncIterator[Problem]:
        """Yield the problems of the revisions, parents first.

        The first upgrade of a revision is not compared with the second one, which takes a third of
        the time, unless the schema at the end shows that one of them differs.
        """
        begun, is_thorough = 0, False
        while self._has_more(begun):
            self.reviewed.step(f"rehearsing {self._order[begun]} and later revisions")
            async with self.empty() as url:
                walked = await self._walk_from(url, begun, is_thorough=is_thorough)
                suspect = walked.differing or (walked.failed.step if walked.failed else None)
                found = [] if suspect else await self._whole(url)
            if suspect is None and (is_thorough or not found):
                for problem in found:
                    yield problem
                return
            if suspect is None:
                is_thorough = True
                continue
            self.reviewed.step(f"examining {suspect.revision}")
            examination = Examination(rehearsal=self, revision=suspect.revision)
            for problem in await examination.problems():
                yield problem
            if examination.is_blocked:
                return
            begun = max(begun, self._order.index(suspect.revision)) + 1

    def before(self, revision: str) -> list[Step]:
        """Return the steps to all revisions before one, in the order of a rehearsal."""
        names = self._order[: self._order.index(revision)]
        return [Step(Direction.UP, name) for name in names]

    async def walk(
        self, url: DatabaseUrl, steps: Sequence[Step], *, fingerprint: str = ""
    ) -> Walked:
        """Run steps in one process."""
        replays, service = self.reviewed.replays, self.reviewed.service
        server = await replays.server(service)
        with scratch_directory() as scratch:
            session = await throwaway_observation(server.admin, url, scratch / "events", jit="off")
            alembic = replays.alembic(service, url)
            return await walk(alembic, session, steps, fingerprint=fingerprint)

    def empty(self) -> AbstractAsyncContextManager[DatabaseUrl]:
        """Return a new database without revisions, for a `with` block."""
        return self.reviewed.replays.database(self.reviewed.service, self.history, ())

    def _has_more(self, begun: int) -> bool:
        names = {revision.id for revision in self.tested}
        return any(name in names for name in self._order[begun:])

    async def schema(self, url: DatabaseUrl) -> Schema:
        """Return the complete schema of a database."""
        settings = self.reviewed.replays.settings
        return await dump_schema(url, environment=settings.tool_environment())

    async def _whole(self, url: DatabaseUrl) -> list[Problem]:
        """Compare the schema after a rehearsal with that of an upgrade of all revisions.

        The fingerprint of a schema does not contain everything that pg_dump reads.
        """
        replays, service = self.reviewed.replays, self.reviewed.service
        self.reviewed.step("comparing the schema with that of one upgrade")
        try:
            async with replays.database(service, self.history, self.history.heads) as plain:
                difference = _difference(await self.schema(plain), await self.schema(url))
        except MigrationError as error:
            return [problem_of(error, cause=f"one upgrade of all revisions: {error.message}")]
        if not difference:
            return []
        return [
            Problem(
                level=Level.ERROR,
                cause="the schema after each revision was undone and applied again is not that of "
                f"one upgrade: {difference}",
                remedy="Find the revision that changes it, and correct its downgrade().",
                code="downgrade-incomplete",
            )
        ]

    async def _walk_from(self, url: DatabaseUrl, begun: int, *, is_thorough: bool) -> Walked:
        """Apply the revisions before a position, and rehearse those behind it."""
        steps: list[Step] = []
        for number, name in enumerate(self._order):
            is_rehearsed = number >= begun and name in self._reversible
            is_before = number >= begun - 1 and not is_rehearsed
            steps.append(Step(Direction.UP, name, is_thorough or is_before))
            if is_rehearsed:
                steps += [Step(Direction.DOWN, name), Step(Direction.UP, name)]
        return await self.walk(url, steps, fingerprint=FINGERPRINT)


@dataclass(kw_only=True)
class Examination:
    """One revision, applied, undone and applied again, each in a process of its own.

    Attributes:
        is_blocked: Whether the revisions behind it cannot be applied.
    """

    rehearsal: Rehearsal
    revision: str
    is_blocked: bool = False

    async def problems(self) -> list[Problem]:
        """Return the problems of the revision; empty if it has none when it is run alone."""
        async with self.rehearsal.empty() as url:
            return [problem async for problem in self._problems(url)]

    async def _problems(self, url: DatabaseUrl) -> AsyncIterator[Problem]:
        up, down = Step(Direction.UP, self.revision), Step(Direction.DOWN, self.revision)
        if earlier := self.rehearsal.before(self.revision):
            await self.rehearsal.walk(url, earlier)
        without = await self.rehearsal.schema(url)
        if failed := await self._fails(url, up):
            self.is_blocked = True
            yield self._failure(failed)
            return
        complete = await self.rehearsal.schema(url)
        if failed := await self._fails(url, down):
            yield self._failure(failed)
            return
        undone = await self.rehearsal.schema(url)
        if difference := _difference(without, undone):
            yield self._problem(
                f"the downgrade of {self.revision} does not undo its upgrade: {difference}",
                "Undo in downgrade() what upgrade() does, in the opposite order."
                + (_ENUM_REMAINS if "type " in difference else ""),
                code="downgrade-incomplete",
            )
        if failed := await self._fails(url, up):
            yield self._failure(failed, repeated=True)
            return
        if difference := _difference(complete, await self.rehearsal.schema(url)):
            yield self._problem(
                f"the second upgrade of {self.revision} does not give the schema of the first: "
                f"{difference}",
                "Undo in downgrade() what upgrade() does, or make upgrade() independent of what it "
                "finds.",
                code="upgrade-differs",
            )

    async def _fails(self, url: DatabaseUrl, step: Step) -> FailedStep | None:
        return (await self.rehearsal.walk(url, [step])).failed

    def _failure(self, failed: FailedStep, *, repeated: bool = False) -> Problem:
        which = f"the second {Direction.UP}" if repeated else f"the {failed.step.direction}"
        code = "upgrade-failed" if failed.step.direction is Direction.UP else "downgrade-failed"
        return self._problem(
            f"{which} of {self.revision} failed: {failed.message}",
            f"Correct {failed.step.direction}() in the file."
            if not repeated
            else "Undo in downgrade() everything that upgrade() does.",
            code=code,
            statement=failed.statement,
        )

    def _problem(self, cause: str, remedy: str, *, code: str, statement: str = "") -> Problem:
        revision = self.rehearsal.history.revisions[self.revision]
        path = self.rehearsal.reviewed.shown(revision.path)
        # A downgrade that leaves something shows in the second upgrade.
        function = UPGRADE if code == "upgrade-failed" else DOWNGRADE
        return Problem(
            level=Level.ERROR,
            cause=f"{path}: {cause}",
            remedy=remedy,
            code=code,
            statement=statement,
            path=path,
            line=line_of(revision, function),
        )


def _difference(before: Schema, after: Schema) -> str:
    """Return how two schemas differ, in clauses; an empty string if they are equal."""
    words = {Change.MISSING: "is missing", Change.EXTRA: "remains", Change.DIFFERENT: "differs"}
    found = compare(before, after)
    clauses = [f"{one.label} {words[one.change]}" for one in found[:_SHOWN]]
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "; ".join([*clauses, *more])
