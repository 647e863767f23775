"""The read-only flows for staging and production: validate, status and plan.

Every selected service is reported, with all problems found. All errors of the configuration are
reported together, before any connection is opened. `migrate.py` changes the databases.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import EXTERNAL_PREFIX, Settings
from huleedu_tasks.config.urls import (
    ResolvedUrl,
    certificates_problem,
    findings_of,
    resolve,
    resolve_direct,
    resolve_each,
)
from huleedu_tasks.errors import ConfigurationError, ExitCode, Finding, HuleEduError, ServerError
from huleedu_tasks.guard import require_external_environment
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.revisions import History, named
from huleedu_tasks.parallel import Step, Work
from huleedu_tasks.prod.env_py_check import as_of_a_plan, following_problems
from huleedu_tasks.prod.journal import commit_of
from huleedu_tasks.prod.plan import Planned, plan
from huleedu_tasks.prod.plan_file import write_plan
from huleedu_tasks.prod.rights import judge_rights
from huleedu_tasks.prod.validate import (
    DISABLED,
    Target,
    Validated,
    history_problems,
    password_problems,
    reach,
    same_database,
    tls_state,
    validate,
)
from huleedu_tasks.report import Fact, Level, Outcome, Problem, Progress, Report, Silence, State

# The limit of concurrent connections, because other clients use the same servers.
CONNECTIONS = 8
PLAN_COLUMNS = ("database", "from", "to", "pending")
VALIDATE_COLUMNS = ("database", "tls", "version", "current", "pending")
STATUS_COLUMNS = ("database", "current", "head", "pending")


@dataclass(frozen=True, kw_only=True)
class Production:
    """The flows over the selected services.

    Attributes:
        settings: The unchecked settings; their errors are reported with all others.
        services: The selected services, in registry order.
        root: The root of the monorepo.
        answers: The source of each service's revisions, read by its Alembic.
        redact: Masks every password in a string.
        progress: Shows the progress of each service.
        started: The start of the command, in seconds of the monotonic clock.
    """

    settings: Settings
    services: tuple[Service, ...]
    root: Path
    answers: AlembicHistories
    redact: Callable[[str], str] = str
    progress: Progress = field(default_factory=Silence)
    started: float = field(default_factory=time.monotonic)
    # The history of each service by its name, or the error that reading it raised.
    histories: dict[str, History | HuleEduError] = field(default_factory=dict)

    async def validate(self, *, offline: bool) -> Report:
        """Report every problem that could make a migration fail.

        Args:
            offline: Whether to check configuration and files only, without connecting.

        Raises:
            ConfigurationError: If the configuration has errors; it contains all of them.
        """
        self.require_configuration("prod.validate")
        async with self.reading_histories():
            if offline:
                outcomes = tuple(map(self._offline, self.services))
            else:
                outcomes, _ = await self._validate_all(check_all=True)
        return self.report("prod.validate", outcomes, VALIDATE_COLUMNS)

    async def status(self, *, check: bool) -> Report:
        """Report the revision of each database.

        Args:
            check: Whether the exit code is 4 if a database is not at head.

        Raises:
            ConfigurationError: If the configuration has errors; it contains all of them.
        """
        self.require_configuration("prod.status")
        async with self.reading_histories():
            outcomes = await self._run(self._status)
        behind = any(outcome.facts.get("pending") != 0 for outcome in outcomes)
        report = self.report("prod.status", outcomes, STATUS_COLUMNS)
        return replace(report, pending=check and behind)

    async def plan(self, *, out: Path | None) -> Report:
        """Report what a migration would run.

        Args:
            out: The plan file to write, for `prod.migrate --plan`; `None` to write none.

        Raises:
            ConfigurationError: If the configuration has errors, or the file cannot be written.
        """
        self.require_configuration("prod.plan")
        async with self.reading_histories():
            outcomes, planned = await self.plan_all()
        report = self.report("prod.plan", outcomes, PLAN_COLUMNS)
        if out is None:
            return report
        if report.exit_code is not ExitCode.DONE:
            return replace(report, notes=(f"{out} was not written because of the errors above.",))
        changing = [planned[s.name] for s in self.services if planned[s.name].changes]
        write_plan(
            out,
            [entry.as_json() for entry in changing],
            environment=str(self.settings.environment),
            commit=commit_of(self.root),
            redact=self.redact,
        )
        return replace(report, notes=(f"The plan was written to {out}.",))

    async def plan_all(self) -> tuple[tuple[Outcome, ...], dict[str, Planned]]:
        """Validate all services, and plan those without errors.

        Returns:
            One outcome for each service, and the plans by the name of their service.
        """
        outcomes, found = await self._validate_all()
        planned: dict[str, Planned] = {}

        async def work_out(service: Service, step: Step) -> Outcome:
            step("planning")
            validated = found[service.name]
            planned[service.name] = await plan(validated, self.settings, self.root)
            return _planned(validated, planned[service.name])

        outcomes = await parallel.run_next(
            self.services,
            [replace(outcome, detail="") if outcome else outcome for outcome in outcomes],
            work_out,
            jobs=self.settings.jobs,
            progress=self.progress,
        )
        return outcomes, planned

    @asynccontextmanager
    async def reading_histories(self) -> AsyncIterator[None]:
        """Read every service's revisions, and keep the Alembic processes for the `with` block."""
        async with aclosing(self.answers):
            found = await asyncio.gather(*map(self._history, self.services))
            self.histories.update(zip((s.name for s in self.services), found, strict=True))
            yield

    async def _history(self, service: Service) -> History | HuleEduError:
        try:
            return await self.answers.history(service, self._urls[service.name].url)
        except HuleEduError as error:
            return error

    # Each service.

    async def _validate_all(
        self, *, check_all: bool = False
    ) -> tuple[tuple[Outcome, ...], dict[str, Validated]]:
        """Validate every database, and the `env.py` of those with pending revisions.

        Args:
            check_all: Whether to check every `env.py`, and to report its problems as errors.
                Otherwise most of them are warnings, because a migration compares its connections
                when it runs.

        Returns:
            One outcome for each service, and the facts of those that were validated, by name.
        """
        found: dict[str, Validated] = {}
        # Each process imports the modules of its service, which takes processor time and memory.
        turns = asyncio.Semaphore(self.settings.jobs)

        async def ask(service: Service, step: Step) -> Outcome:
            step("querying its database")
            validated = await validate(self.target(service))
            if check_all or validated.is_behind:
                async with turns:
                    step("asking its env.py")
                    problems = await self._following(validated)
                if not check_all:
                    problems = tuple(map(as_of_a_plan, problems))
                validated = replace(validated, problems=(*validated.problems, *problems))
            found[service.name] = await judge_rights(validated, self.settings, self.root)
            return _validated(found[service.name])

        if check_all:
            # The worker processes import their libraries while the databases are queried.
            self.answers.workers.prepare()
        outcomes = await self._run(ask)
        # Services in one database are found only after all databases are known.
        shared = same_database([found[s.name] for s in self.services if s.name in found])
        judged = tuple(
            outcome.judged((*(outcome.problems or ()), shared[outcome.service]))
            if outcome.service in shared
            else outcome
            for outcome in outcomes
        )
        return judged, found

    async def _following(self, validated: Validated) -> tuple[Problem, ...]:
        target, workers = validated.target, self.answers.workers
        return await following_problems(
            target.service, target.resolved, self.settings, workers, known=validated.problems
        )

    def _offline(self, service: Service) -> Outcome:
        target = self.target(service)
        problems = (*history_problems(target), *password_problems(target))
        return _validated(Validated(target=target, problems=problems))

    async def _status(self, service: Service, step: Step) -> Outcome:
        target = self.target(service)
        if isinstance(target.history, HuleEduError):
            raise target.history
        step("querying its database")
        try:
            async with reach(target) as opened:
                revisions = await target.read_revisions(opened)
        except ServerError as error:
            return replace(parallel.failed(service, error), facts=_address(target))
        facts = _revision_facts(target.history, revisions)
        done = Outcome(service=service.name, facts=_address(target) | facts)
        if facts["pending"] is None:
            detail = f"revision {named(revisions)} is not in the revision files"
            return replace(done, state=State.UNKNOWN_REVISION, detail=detail)
        if facts["pending"]:
            return replace(done, state=State.BEHIND, hint="Run `invoke prod.plan`.")
        return done

    async def _run(self, work: Work) -> tuple[Outcome, ...]:
        return await parallel.run(self.services, work, jobs=CONNECTIONS, progress=self.progress)

    def target(self, service: Service) -> Target:
        """Return the database of a service, with its settings and its history."""
        environment = self.settings.environment
        prefix = EXTERNAL_PREFIX[environment]
        return Target(
            service=service,
            resolved=self._urls[service.name],
            usual=self._usual(service),
            environment=str(environment),
            variables=prefix,
            open_allowed=self.settings.get(f"{prefix}_SSLMODE") == DISABLED,
            history=self.histories[service.name],
            answers=self.answers,
        )

    def _usual(self, service: Service) -> ResolvedUrl | None:
        """Return the service's own URL; `None` if the same one is used here."""
        found, _ = resolve_each([service], self.settings)
        usual = found.get(service.name)
        return None if usual == self._urls[service.name] else usual

    def report(
        self, command: str, outcomes: tuple[Outcome, ...], columns: tuple[str, ...]
    ) -> Report:
        """Return the report of a command, with the servers of the selected services."""
        places: dict[str, list[str]] = {}
        for name, resolved in self._urls.items():
            places.setdefault(resolved.url.address, []).append(name)
        return Report(
            command=command,
            environment=str(self.settings.environment),
            provider="external",
            provider_reason=f"{len(places)} servers" if len(places) > 1 else next(iter(places)),
            outcomes=outcomes,
            columns=columns,
            places=places,
            seconds=time.monotonic() - self.started,
        )

    # Checks before the first connection.

    def require_configuration(self, command: str) -> None:
        """Require a configuration without errors, as far as that is known without a connection.

        Args:
            command: The name of the command, for the message.

        Raises:
            Refused: In development and testing.
            ConfigurationError: If the configuration has errors; it contains all findings.
        """
        require_external_environment(self.settings, command)
        findings = [
            *self.settings.findings(),
            *self._unresolved(),
            *self._same_address(),
            *self._certificates(),
            *self._missing_files(),
        ]
        if findings:
            raise ConfigurationError(
                f"The {self.settings.environment.upper()} configuration has errors; nothing was "
                "connected to.",
                code="settings-invalid",
                # One wrong variable causes the same finding for every service.
                findings=list(dict.fromkeys(findings)),
                hint="Correct them; `invoke env.show` shows the source of each value.",
            )

    def _unresolved(self) -> list[Finding]:
        stated = [s for s in self.services if self.settings.get(s.url_variable)]
        # The service's own URL is checked even if the direct URL is used.
        _, usual = resolve_each(stated, self.settings, resolve)
        _, direct = self._resolved
        # With a direct URL, the service's own URL may list several hosts.
        usual = [error for error in usual if error.code != "url-several-hosts"]
        return findings_of([*usual, *direct])

    def _same_address(self) -> Iterator[Finding]:
        seen: dict[tuple[str, int, str], str] = {}
        sharing = {service.name for service in self.services if service.shared_database}
        for name, resolved in self._urls.items():
            url = resolved.url
            key = (url.host.lower(), url.port, url.database)
            if key in seen and not {name, seen[key]} <= sharing:
                problem = f"has the same database as {seen[key]}: {url.address}/{url.database}"
                yield Finding(place=f"{name} ({resolved.source})", problem=problem)
            seen.setdefault(key, name)

    def _certificates(self) -> Iterator[Finding]:
        variable = f"{EXTERNAL_PREFIX[self.settings.environment]}_SSLROOTCERT"
        stated = {variable: self.settings.get(variable)} | {
            resolved.source: resolved.url.tls.get("sslrootcert", "")
            for resolved in self._urls.values()
            if resolved.is_override
        }
        for place, file in stated.items():
            if file and (problem := certificates_problem(file)):
                yield Finding(place=place, problem=problem)

    def _missing_files(self) -> list[Finding]:
        return [f for service in self.services for f in service.missing_files(seeds=False)]

    @property
    def _urls(self) -> Mapping[str, ResolvedUrl]:
        return self._resolved[0]

    @cached_property
    def _resolved(self) -> tuple[dict[str, ResolvedUrl], list[ConfigurationError]]:
        return resolve_each(self.services, self.settings, resolve_direct)


def _planned(validated: Validated, planned: Planned) -> Outcome:
    pin = planned.pin
    details = (
        "" if planned.revisions else "nothing pending",
        f"will be tagged as {validated.target.environment}" if planned.tags else "",
    )
    return Outcome(
        service=pin.service,
        facts={
            "from": named(pin.before),
            "to": named(pin.after),
            "pending": len(planned.revisions),
        },
        detail=", ".join(filter(None, details)),
        problems=tuple(p for p in validated.problems if p.level is not Level.INFO),
        revisions=planned.revisions,
    )


def _validated(validated: Validated) -> Outcome:
    target, facts = validated.target, validated.facts
    shown = _address(target)
    if facts is not None:
        shown |= {"tls": tls_state(target, facts), "version": facts.version}
        if not isinstance(validated.revisions, HuleEduError):
            shown |= _revision_facts(target.history, validated.revisions)
    return Outcome(service=target.service.name, facts=shown).judged(validated.problems)


def _address(target: Target) -> dict[str, Fact]:
    return {"server": target.url.address, "database": target.url.database}


def _revision_facts(history: History | HuleEduError, revisions: tuple[str, ...]) -> dict[str, Fact]:
    if isinstance(history, HuleEduError):
        return {"current": named(revisions), "head": None, "pending": None}
    return {
        "current": named(revisions),
        "head": named(history.heads),
        "pending": history.pending(revisions),
    }
