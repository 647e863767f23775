"""The backups that `prod.migrate` takes before its first change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.prod.backup_dump import Dumper, dump, run_command
from huleedu_tasks.prod.journal import Record
from huleedu_tasks.prod.target import Target

NO_BACKUP = "neither --backup-command nor --backup-dir was given."
# The variable that passes the names of the services to the user's backup command.
SERVICES_VARIABLE = "HULEEDU_BACKUP_SERVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backups:
    """The backup options.

    Attributes:
        root: The root of the monorepo, where the command runs.
        command: The user's backup command; empty string for none.
        directory: The directory of the dumps; `None` for no dumps.
        dumper: The programs that write a dump and read it back; `None` without a directory.
    """

    root: Path
    command: str = ""
    directory: Path | None = None
    dumper: Dumper | None = None

    @property
    def announcement(self) -> str:
        """Which backup will be taken, for the confirmation."""
        kinds = (
            f"the command {self.command!r}" if self.command else "",
            f"a dump of each database in {self.directory}" if self.directory else "",
        )
        if not any(kinds):
            return f"No backup will be taken: {NO_BACKUP}"
        return f"Backup before the first change: {', then '.join(filter(None, kinds))}."

    async def take(
        self,
        targets: Mapping[str, Target],
        *,
        services: Sequence[str],
        settings: Settings,
        record: Record,
        notify: Callable[[str], object],
    ) -> tuple[str, ...]:
        """Back up the databases that are about to be changed.

        Args:
            targets: One service for each database.
            services: The names of all services that are about to be migrated.
            notify: Called with a sentence before each step.

        Returns:
            One sentence for each backup, or that none was taken.

        Raises:
            BackupError: If the command or a dump fails.
        """
        if not targets:
            return ()
        notes = []
        if self.command:
            notify("Running the backup command.")
            await run_command(
                self.command,
                root=self.root,
                environment=settings.variables() | {SERVICES_VARIABLE: " ".join(services)},
                timeout=settings.backup_timeout,
            )
            notes.append("The backup command succeeded.")
            record.add("backed up", by="command")
        if self.directory and self.dumper:
            for name, target in targets.items():
                database = target.url.database
                path = self.directory / f"{settings.environment}-{database}-{record.run}.dump"
                notify(f"{name}: dumping {database} to {path}.")
                await dump(
                    target.url,
                    path,
                    self.dumper,
                    environment=settings.tool_environment(),
                    timeout=settings.backup_timeout,
                )
                notes.append(f"{name}: dumped to {path}, and read back.")
                record.add("backed up", by="pg_dump", service=name, path=str(path))
        if not notes:
            record.add("not backed up")
        return tuple(notes) or (f"No backup was taken by this run: {NO_BACKUP}",)
