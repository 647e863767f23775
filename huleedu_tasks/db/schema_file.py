"""`db.schema`: the schema at head of each service as a file, reviewed with its revisions."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import ConfigurationError, Finding
from huleedu_tasks.guard import require_disposable_environment
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.migrations.alembic_config import NotUnderstood, script_directory
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import (
    VersionTable,
    current_revisions,
    version_table_candidates,
)
from huleedu_tasks.report import (
    Change,
    Difference,
    Outcome,
    Progress,
    Report,
    Silence,
    State,
)
from huleedu_tasks.repository import shown
from huleedu_tasks.schema.diff import compare
from huleedu_tasks.schema.dump import SchemaDump, dump
from huleedu_tasks.schema.replay import PROVIDER, PROVIDER_REASON, Replays
from huleedu_tasks.schema.sql_script import MARKER, schema_in_script, script_of

COMMAND = "db.schema"
COLUMNS = ("head", "file")
FILE = "schema.sql"
_FLIPPED = {Change.MISSING: Change.EXTRA, Change.EXTRA: Change.MISSING}


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFiles:
    """The schema files of services.

    Attributes:
        registry: All services.
        services: The selected services, in registry order.
        state: The project's state directory.
        instance: The instance whose servers of development may be used; None for the main fleet.
        directory: The directory of all files; None for a file beside each service's migrations.
        check: Whether the files are compared, and not written.
        dry_run: Whether to report what would be written instead of writing it.
        jobs: How many services are replayed at once.
        notify: Called with a sentence if another command uses a throwaway server.
    """

    settings: Settings
    registry: Registry
    services: tuple[Service, ...]
    state: Path
    instance: Instance | None = None
    directory: Path | None = None
    check: bool = False
    dry_run: bool = False
    jobs: int = 1
    progress: Progress = field(default_factory=Silence)
    notify: Callable[[str], object] = str

    async def run(self) -> Report:
        """Write or compare the file of each service.

        Raises:
            Refused: In staging and production.
            ConfigurationError: If several services have the same file.
        """
        started = time.monotonic()
        require_disposable_environment(self.settings, COMMAND)
        files = {service.name: self._path(service) for service in self.services}
        _require_own(files, self.registry.root)
        replays = Replays(
            settings=self.settings,
            registry=self.registry,
            state=self.state,
            instance=self.instance,
            notify=self.notify,
        )

        async def one(service: Service, step: Step) -> Outcome:
            text, heads = await _script(service, replays, step)
            path = files[service.name]
            try:
                return self._outcome(service, path, text, heads)
            except OSError as error:
                raise ConfigurationError(
                    f"{shown(path, self.registry.root)} could not be read or written: "
                    f"{error.strerror}.",
                    code="schema-file-unwritable",
                    hint="Correct its owner and permissions, or write the files into another "
                    "directory: `--to DIRECTORY`.",
                ) from error

        async with aclosing(replays):
            replays.histories.workers.prepare()
            outcomes = await parallel.run(
                self.services, one, jobs=self.jobs, progress=self.progress
            )
        return Report(
            command=COMMAND,
            environment=str(self.settings.environment),
            provider=PROVIDER,
            provider_reason=PROVIDER_REASON,
            outcomes=outcomes,
            columns=COLUMNS,
            seconds=time.monotonic() - started,
            dry_run=self.dry_run,
            pending=self.check and any(outcome.state is State.STALE for outcome in outcomes),
        )

    def _path(self, service: Service) -> Path:
        if self.directory:
            return self.directory / f"{service.name}.sql"
        try:
            return script_directory(service) / FILE
        except NotUnderstood:
            # Only Alembic knows where its migrations are.
            return service.directory / FILE

    def _outcome(self, service: Service, path: Path, text: str, heads: tuple[str, ...]) -> Outcome:
        """Write or compare the file of a service.

        Raises:
            ConfigurationError: If the file was not written by this command.
        """
        found = path.read_bytes().decode(errors="replace") if path.exists() else ""
        place = shown(path, self.registry.root)
        _require_written_here(found, place)
        done = Outcome(
            service=service.name, facts={"head": named(heads), "file": place}, differences=()
        )
        if found == text:
            return replace(done, detail="up to date")
        if self.check:
            return replace(
                done,
                state=State.STALE,
                differences=tuple(_differences(found, text)),
                detail="" if found else "the file is missing",
                hint=f"Run `invoke db.schema --service {service.name}`, and commit the file.",
            )
        if self.dry_run:
            return replace(done, detail=f"would {'change' if found else 'create'} the file")
        _write(path, text)
        return replace(done, detail="changed" if found else "created")


def _require_own(files: dict[str, Path], root: Path) -> None:
    """Require that no two services have the same file."""
    counts = Counter(path.resolve() for path in files.values())
    shared = [name for name, path in files.items() if counts[path.resolve()] > 1]
    if shared:
        raise ConfigurationError(
            "Several services have the same schema file, because they share their migrations.",
            code="schema-file-shared",
            findings=[Finding(place=name, problem=shown(files[name], root)) for name in shared],
            hint="Write a file per service into one directory: `--to DIRECTORY`.",
        )


def _require_written_here(found: str, place: str) -> None:
    if found and not found.startswith(MARKER):
        raise ConfigurationError(
            f"{place} was not written by db.schema, and was not changed.",
            code="schema-file-foreign",
            hint="Move it away, or write the files into another directory: `--to DIRECTORY`.",
        )


async def _script(service: Service, replays: Replays, step: Step) -> tuple[str, tuple[str, ...]]:
    """Return the script of a service's schema at head, and its heads."""
    history = await replays.histories.history(service)
    step("replaying its history")
    async with replays.database(service, history, history.heads, step=step) as url:
        step("reading its schema")
        dumped = await _dump(service, url, replays)
        tables = [VersionTable(schema=s, name=n) for s, n in dumped.facts.version_tables]
        async with connection(url) as opened:
            revisions = await current_revisions(opened, tables)
    return script_of(dumped, {t: revisions[str(t)] for t in tables}), history.heads


async def _dump(service: Service, url: DatabaseUrl, replays: Replays) -> SchemaDump:
    sharing = [
        other
        for other in replays.registry.services
        if other.shared_database and other.database == service.database
    ]
    found: set[VersionTable] = set()
    async with connection(url) as opened:
        for member in {s.name: s for s in (service, *sharing)}.values():
            tables = await replays.histories.version_tables(member, url, opened)
            found |= set(await version_table_candidates(opened) if tables is None else tables)
    return await dump(
        url,
        environment=replays.settings.tool_environment(),
        version_tables=sorted(found, key=str),
    )


def _differences(found: str, text: str) -> list[Difference]:
    """Return what writing the file would change in it, object by object."""
    differences = compare(schema_in_script(found, major=0), schema_in_script(text, major=0))
    return [replace(one, change=_FLIPPED.get(one.change, one.change)) for one in differences]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(text.encode())
    partial.replace(path)
