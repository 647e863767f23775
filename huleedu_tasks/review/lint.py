"""`migrations.lint`: what revisions lock, rewrite and destroy, observed on a throwaway database.

The revisions of the base branch are replayed first. Then each new revision runs while PostgreSQL is
asked what every statement did. The text of the statements, and squawk where it is installed, add
what empty tables hide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.migrations import squawk
from huleedu_tasks.migrations.observation import throwaway_observation
from huleedu_tasks.migrations.observed_hazards import relations_after
from huleedu_tasks.migrations.observed_statements import ObservedRevision
from huleedu_tasks.migrations.observing import observe
from huleedu_tasks.migrations.revision_findings import find_in_revision, sql_of
from huleedu_tasks.migrations.revisions import History, Revision, named
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.inspection import Relation, read_relations
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.report import Fact, Level, Outcome, Problem, Report
from huleedu_tasks.review.base_branch import new_revisions
from huleedu_tasks.review.review import Review, Reviewed
from huleedu_tasks.review.table_sizes import TableSizes, read_table_sizes

COMMAND = "migrations.lint"
COLUMNS = ("head", "revisions", "linted")


async def lint(review: Review, *, sizes: str = "", directory: Path) -> Report:
    """Report what the new revisions of each service lock, rewrite and destroy.

    Args:
        sizes: The file with the sizes of tables; an empty string for the default one.
        directory: The directory that the file is relative to.

    Raises:
        ConfigurationError: If the base cannot be found, or the sizes cannot be read.
    """
    known = read_table_sizes(sizes, review.registry, directory)

    async def one(reviewed: Reviewed) -> Outcome:
        return await _lint(reviewed, known)

    return await review.run(COMMAND, COLUMNS, one)


async def _lint(reviewed: Reviewed, sizes: TableSizes) -> Outcome:
    history = await reviewed.replays.histories.history(reviewed.service, may_branch=True)
    base = await reviewed.base_revisions()
    linted = history.between((), history.heads) if base is None else new_revisions(history, base)
    facts: dict[str, Fact] = {
        "head": named(history.heads),
        "revisions": len(history.revisions),
        "linted": len(linted),
    }
    if not linted:
        return reviewed.outcome(facts, ())
    linter = Linter(
        reviewed=reviewed,
        history=history,
        linted=linted,
        sizes=sizes.get(reviewed.service.name, {}),
        has_base=base is not None,
    )
    outcome = reviewed.outcome(facts, await linter.problems())
    return replace(outcome, graph=reviewed.graph(history, base))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linter:
    """The lint of some revisions of a service.

    Attributes:
        linted: The revisions to lint, parents first.
        sizes: The known tables of staging or production, by `schema.name`.
        has_base: Whether the other revisions are those of a base branch. Without one, each revision
            is judged as if it were the only one that is new.
    """

    reviewed: Reviewed
    history: History
    linted: Sequence[Revision]
    sizes: Mapping[str, Relation]
    has_base: bool

    async def problems(self) -> list[Problem]:
        """Return the findings of all revisions, most severe first."""
        observed, relations = await self._observe()
        from_squawk = await self._squawk(observed)
        found: list[Problem] = []
        for one in observed:
            if not self.has_base:
                relations = self._with_sizes(_touched(one))
            revision = self.history.revisions[one.revision]
            path = self.reviewed.shown(revision.path)
            problems = find_in_revision(one, revision, relations, from_squawk.get(one.revision, ()))
            found += (replace(problem, path=path) for problem in problems)
            relations = relations_after(one, relations)
        levels = list(Level)
        return sorted(found, key=lambda problem: levels.index(problem.level))

    async def _observe(self) -> tuple[tuple[ObservedRevision, ...], dict[str, Relation]]:
        """Run the revisions, and return what they did and the relations before them."""
        replays, service = self.reviewed.replays, self.reviewed.service
        before = self._before()
        self.reviewed.step(f"replaying {named(before)}")
        replaying = replays.database(service, self.history, before, step=self.reviewed.step)
        async with replaying as url:
            relations = await self._relations(url)
            self.reviewed.step(f"observing {len(self.linted)} revisions")
            server = await replays.server(service)
            with scratch_directory() as scratch:
                session = await throwaway_observation(server.admin, url, scratch / "events")
                names = [revision.id for revision in self.linted]
                return await observe(replays.alembic(service, url), session, names), relations

    def _before(self) -> tuple[str, ...]:
        """Return the revisions that the new ones follow."""
        new = {revision.id for revision in self.linted}
        others = {name: one for name, one in self.history.revisions.items() if name not in new}
        return History(revisions=others).heads

    async def _relations(self, url: DatabaseUrl) -> dict[str, Relation]:
        async with connection(url, uncounted=True) as opened:
            return self._with_sizes(await read_relations(opened))

    def _with_sizes(self, relations: Mapping[str, Relation]) -> dict[str, Relation]:
        """Return relations with the sizes that they have in production, where those are known."""
        by_name = {
            id(one): self.sizes[name] for name, one in relations.items() if name in self.sizes
        }
        found = {}
        for name, one in relations.items():
            known = by_name.get(id(one))
            rows, size = (known.rows, known.size) if known else (None, None)
            found[name] = replace(one, rows=rows, size=size)
        return found

    async def _squawk(
        self, observed: Sequence[ObservedRevision]
    ) -> Mapping[str, Sequence[Problem]]:
        """Return what squawk finds, by revision; empty if it is not installed."""
        sql = {one.revision: text for one in observed if (text := sql_of(one))}
        program = squawk.find_squawk()
        if not program or not sql:
            return {}
        settings = self.reviewed.replays.settings
        root = self.reviewed.replays.registry.root
        environment = settings.tool_environment()
        return await squawk.lint(program, sql, root=root, environment=environment)


def _touched(observed: ObservedRevision) -> dict[str, Relation]:
    """Return the tables that a revision found, by `schema.name` and by their shown names."""
    found: dict[str, Relation] = {}
    for name, table in observed.tables.items():
        is_visible = table.shown != name
        schema, _, own = ("", "", table.shown) if is_visible else name.partition(".")
        relation = Relation(name=own, rows=None, size=None, schema=schema)
        found |= {table.shown: relation, name: relation}
    return found
