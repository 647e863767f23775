"""Has a service's seeds applied by a process of their own, and says what became of them."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import HuleEduError, Refused, SeedError, ServerError
from huleedu_tasks.migrations.forkserver import WarmWorkers
from huleedu_tasks.migrations.runner import (
    INSTRUCTIONS,
    Observation,
    Used,
    environment_at,
    used_at,
)
from huleedu_tasks.postgres.databases import parse_tag
from huleedu_tasks.seeds.files import fingerprint

CHILD = "huleedu_tasks.seeds.child"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a service's seeds.

    Attributes:
        used: What they have used; None if that was not told.
        output: What they printed.
    """

    used: Used | None
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """A process that applies seeds, and what it has told."""

    service: Service
    url: DatabaseUrl
    settings: Settings
    scratch: Path
    target: tuple[str, int]

    @property
    def environment(self) -> dict[str, str]:
        """What the process finds in its environment."""
        instructions = {
            "url": _without_password(self.url),
            "root": str(self.settings.root),
            "seeds": [str(path) for path in self.service.seeds],
            "import_paths": self._import_paths,
            "environment": str(self.settings.environment),
            "fingerprint": fingerprint(self.service),
            "shared_by": self.service.name if self.service.shared_database else "",
            "target": self.target,
            "used": str(self._used),
            "events": str(self._events),
        }
        environment = environment_at(self.service, self.url, self.settings)
        return {**environment, INSTRUCTIONS: json.dumps(instructions)}

    def applied(self, done: process.Completed) -> Applied:
        """Return what became of the seeds.

        Raises:
            Refused: If one connected to another database.
            SeedError: If one failed, took too long or ended the process.
            ServerError: If the database could not be reached.
        """
        told = Observation(events=self._events, target=self.target).told()
        facts = {str(event["event"]): event for event in told}
        seed = str(facts["begun"]["seed"]) if "begun" in facts else "the first"
        if event := facts.get("mismatch"):
            raise self._mismatch(seed, event, done.output)
        if done.timed_out:
            raise self._timeout(seed, is_done="done" in facts, output=done.output)
        if event := facts.get("failed"):
            kind = ServerError if event["is_server"] else SeedError
            output = f"{done.output}{event['output']}"
            raise kind(event["message"], code=event["code"], hint=event["hint"], output=output)
        if "done" not in facts:
            raise SeedError(
                f"The seed {seed} ended its process with exit code {done.returncode}; nothing of "
                "it was kept.",
                code="seed-failed",
                hint="Correct it and run `invoke db.seed`.",
                output=done.output,
            )
        used = used_at(self._used, self.url)
        sessions = int(facts["done"]["sessions"])
        return Applied(used=replace(used, sessions=sessions) if used else None, output=done.output)

    def _mismatch(self, seed: str, event: dict[str, str], output: str) -> HuleEduError:
        tagged = ""
        with suppress(ServerError):
            tag = parse_tag(event["database"], event["comment"])
            tagged = f", whose environment tag is {tag.environment}" if tag else ""
        return Refused(
            f"The seed {seed} connected to {event['database']} on {event['address']}{tagged}, not "
            f"to {self.url.database} on {self.url.address}; nothing of the seeds was kept.",
            code="target-mismatch",
            hint="Use the connection that is passed to the seed. What another database needs "
            "belongs into a seed of the service it belongs to.",
            output=output,
        )

    def _timeout(self, seed: str, *, is_done: bool, output: str) -> HuleEduError:
        limit = f"longer than {self.settings.migration_timeout:g} s"
        cause = f"The seed {seed} took {limit}; nothing of it was kept."
        if is_done:
            cause = f"The seeds were applied and kept, but their process took {limit} to end."
        return SeedError(
            cause,
            code="seed-timeout",
            hint="See what it waits for; HULEEDU_MIGRATION_TIMEOUT allows more time.",
            output=output,
        )

    @property
    def _import_paths(self) -> list[str]:
        """The directories of the PYTHONPATH that the registry states for the service."""
        stated = self.service.environment.get("PYTHONPATH", "")
        return [
            os.path.normpath(self.service.directory / path)
            for path in stated.split(os.pathsep)
            if path
        ]

    @property
    def _used(self) -> Path:
        return self.scratch / "used"

    @property
    def _events(self) -> Path:
        return self.scratch / "events"


async def apply(
    service: Service,
    url: DatabaseUrl,
    settings: Settings,
    *,
    target: tuple[str, int],
    workers: WarmWorkers,
) -> Applied:
    """Apply a service's seeds and note it in the database's environment tag, all or nothing.

    Args:
        target: The database that was proven: its server's start, and its number there.
        workers: Whoever forks the process.

    Raises:
        Refused: If a seed connected to another database.
        SeedError: If a seed failed, with its own traceback, or took too long.
        ServerError: If the database cannot be reached.
    """
    with process.scratch_directory() as scratch:
        session = _Session(
            service=service, url=url, settings=settings, scratch=scratch, target=target
        )
        return session.applied(await _run(session, workers))


async def _run(session: _Session, workers: WarmWorkers) -> process.Completed:
    try:
        return await _run_with(workers, session)
    except OSError:
        # The process that forks has ended; another one does as well.
        again = WarmWorkers()
        try:
            return await _run_with(again, session)
        except OSError as error:
            raise SeedError(
                f"No process can be started for the seeds: {error.strerror or error}.",
                code="seed-failed",
                hint="Nothing was changed. Run the same command again.",
            ) from error
        finally:
            await again.aclose()


async def _run_with(workers: WarmWorkers, session: _Session) -> process.Completed:
    return await workers.run(
        [],
        cwd=session.settings.root,
        environment=session.environment,
        timeout=session.settings.migration_timeout,
        module=CHILD,
    )


def _without_password(url: DatabaseUrl) -> dict[str, object]:
    return {part.name: getattr(url, part.name) for part in fields(url) if part.name != "password"}
