"""Runs a child process that applies a service's seeds, and reads its result."""

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
from huleedu_tasks.migrations.child_process import INSTRUCTIONS, environment_with_url
from huleedu_tasks.migrations.forkserver import NotForked, WarmWorkers
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.migrations.results import Used, read_used
from huleedu_tasks.postgres.databases import parse_tag
from huleedu_tasks.seeds.files import fingerprint

CHILD = "huleedu_tasks.seeds.child"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The result of applied seeds.

    Attributes:
        used: The inputs that they have read; None if the process did not report them.
        output: What they printed; empty string if nothing.
    """

    used: Used | None
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    """A process that applies seeds, and the files through which it reports."""

    service: Service
    url: DatabaseUrl
    settings: Settings
    scratch: Path
    target: tuple[str, int]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the process."""
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
        environment = environment_with_url(self.service, self.url, self.settings)
        return {**environment, INSTRUCTIONS: json.dumps(instructions)}

    def result_of(self, done: process.Completed) -> Applied:
        """Return the result of a process that has ended.

        Raises:
            Refused: If a seed connected to a different database.
            SeedError: If a seed failed, ended the process or exceeded the time limit.
            ServerError: If the database could not be reached.
        """
        events = Observation(events=self._events, target=self.target).read_events()
        facts = {str(event["event"]): event for event in events}
        seed = f"seed {facts['begun']['seed']}" if "begun" in facts else "first seed"
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
                f"The {seed} ended its process with exit code {done.returncode}. All seeds of "
                "the service were rolled back.",
                code="seed-failed",
                hint="Correct the seed, then run `invoke db.seed`.",
                output=done.output,
            )
        used = read_used(self._used, self.url)
        sessions = int(facts["done"]["sessions"])
        return Applied(used=replace(used, sessions=sessions) if used else None, output=done.output)

    def _mismatch(self, seed: str, event: dict[str, str], output: str) -> HuleEduError:
        tagged = ""
        with suppress(ServerError):
            tag = parse_tag(event["database"], event["comment"])
            tagged = f", whose environment tag is {tag.environment}" if tag else ""
        return Refused(
            f"The {seed} connected to {event['database']} on {event['address']}{tagged}, not "
            f"to {self.url.database} on {self.url.address}. All seeds of the service were rolled "
            "back.",
            code="target-mismatch",
            hint="Use the connection that is passed to the seed. Move rows of another database "
            "into a seed of its own service.",
            output=output,
        )

    def _timeout(self, seed: str, *, is_done: bool, output: str) -> HuleEduError:
        limit = f"{self.settings.migration_timeout:g} s"
        cause = (
            f"The {seed} took longer than {limit} and was ended. All seeds of the service "
            "were rolled back."
        )
        if is_done:
            cause = f"The seeds were committed, but their process took longer than {limit} to exit."
        return SeedError(
            cause,
            code="seed-timeout",
            hint="Find out what the seed waits for, or increase HULEEDU_MIGRATION_TIMEOUT.",
            output=output,
        )

    @property
    def _import_paths(self) -> list[str]:
        """The directories in the service's PYTHONPATH in the registry; empty if it has none."""
        python_path = self.service.environment.get("PYTHONPATH", "")
        return [
            os.path.normpath(self.service.directory / path)
            for path in python_path.split(os.pathsep)
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
    """Apply a service's seeds and write their fingerprint into the environment tag.

    All of it is one transaction.

    Args:
        target: The database that was proven: its server's start time, and its OID there.
        workers: The process from which the child process is forked.

    Raises:
        Refused: If a seed connected to a different database.
        SeedError: If a seed failed, ended the process or exceeded the time limit.
        ServerError: If the database cannot be reached.
    """
    with process.scratch_directory() as scratch:
        session = _Session(
            service=service, url=url, settings=settings, scratch=scratch, target=target
        )
        return session.result_of(await _run(session, workers))


async def _run(session: _Session, workers: WarmWorkers) -> process.Completed:
    try:
        return await _run_with(workers, session)
    except NotForked:
        # Start another fork server.
        replacement = WarmWorkers(session.settings.tool_environment())
        try:
            return await _run_with(replacement, session)
        except NotForked as error:
            raise SeedError(
                f"The process for the seeds did not start: {error}. No seed was applied.",
                code="seed-failed",
                hint="Run the same command again.",
            ) from error
        finally:
            await replacement.aclose()


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
