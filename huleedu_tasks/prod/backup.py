"""What is saved before the first change of databases that are not ours to lose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.prod.dump import Dumper, dump, run_command
from huleedu_tasks.prod.journal import Record
from huleedu_tasks.prod.validate import Target

NO_BACKUP = "neither --backup-command nor --backup-dir was given."
# What the person's own command is told.
SERVICES_VARIABLE = "HULEEDU_BACKUP_SERVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backups:
    """What was asked for.

    Attributes:
        root: The root of the monorepo, where the command runs.
        command: A command of the person's own; empty for none.
        directory: Where dumps go; None for none.
        dumper: What makes them, where there is a directory.
    """

    root: Path
    command: str = ""
    directory: Path | None = None
    dumper: Dumper | None = None

    @property
    def warning(self) -> str:
        """What a person must know before they agree; empty if all will be saved."""
        return "" if self.command or self.directory else f"No backup will be taken: {NO_BACKUP}"

    async def take(
        self,
        targets: Mapping[str, Target],
        *,
        services: Sequence[str],
        settings: Settings,
        record: Record,
        notify: Callable[[str], object],
    ) -> tuple[str, ...]:
        """Save databases that are about to be changed, and return what was done in sentences.

        Args:
            targets: One service for each database.
            services: All that are about to be migrated.

        Raises:
            BackupError: If it fails.
        """
        if not targets:
            return ()
        notes = []
        if self.command:
            notify("Running the backup command.")
            await run_command(
                self.command,
                root=self.root,
                environment=settings.child_environment() | {SERVICES_VARIABLE: " ".join(services)},
                timeout=settings.backup_timeout,
            )
            notes.append("The backup command has ended well.")
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
                    environment=settings.child_environment(),
                    timeout=settings.backup_timeout,
                )
                notes.append(f"{name}: dumped to {path}, and read back.")
                record.add("backed up", by="pg_dump", service=name, path=str(path))
        if not notes:
            record.add("not backed up")
        return tuple(notes) or (f"No backup was taken by this run: {NO_BACKUP}",)
