"""Verifies that registry, compose files, `config.py`, `env.py` and revisions agree.

It changes nothing, and starts and connects to no server: a child process runs each service's own
code to determine where it would connect.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from huleedu_tasks import parallel
from huleedu_tasks.check.agreement import (
    Suggestion,
    action_required,
    differences,
    follows,
    password_not_encoded,
)
from huleedu_tasks.check.compose_agreement import compose_differences, unregistered_servers
from huleedu_tasks.check.leftovers import leftovers
from huleedu_tasks.check.variables import read_variables
from huleedu_tasks.compose.configuration import Composition
from huleedu_tasks.compose.file_choice import read_composition
from huleedu_tasks.compose.init_scripts import created_on, not_run
from huleedu_tasks.config.placeholders import fills_in
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.errors import HuleEduError, MigrationError
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.child_process import environment_of
from huleedu_tasks.migrations.inputs import digest
from huleedu_tasks.migrations.modules import hint_of
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.probe import addresses
from huleedu_tasks.probe.addresses import Address, Answers
from huleedu_tasks.probe.observed_variables import SCHEMES, loaded_by
from huleedu_tasks.probe.scenarios import (
    PLAIN_PASSWORD,
    Case,
    Situation,
    handed_over,
    hiding,
    matrix,
    without_databases,
)
from huleedu_tasks.report import Level, Outcome, Problem, Progress, Report, Silence
from huleedu_tasks.templates.fingerprint import changed_since, own_change_since

COMMAND = "services.check"
COLUMNS = ("env.py", "config.py", "head")
# The name of the cache of answers.
ADDRESSES = "addresses"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One run of `services.check`.

    Attributes:
        services: The services to check. Findings that concern no service are reported only if
            these are all services of the registry.
        histories: The Alembic histories of the services.
        jobs: How many services are checked at once.
        fresh: Whether to run the code of every service, and to ignore cached answers.
    """

    settings: Settings
    registry: Registry
    services: tuple[Service, ...]
    histories: AlembicHistories
    jobs: int
    fresh: bool = False
    progress: Progress = field(default_factory=Silence)
    _answers: dict[str, Mapping[str, Answers]] = field(default_factory=dict)
    _cached: set[str] = field(default_factory=set)

    async def check(self) -> Report:
        """Check the services, and return the report."""
        started = time.monotonic()
        environment = self.settings.compose_environment()
        composition = await read_composition(
            self.registry.root, self.registry.compose_files, environment
        )

        async def one(service: Service, step: parallel.Step) -> Outcome:
            step("running its config.py and env.py")
            return await self._check(service, composition)

        async with aclosing(self.histories):
            outcomes = await parallel.run(
                self.services, one, jobs=self.jobs, progress=self.progress
            )
        general: list[Problem] = []
        if len(self.services) == len(self.registry.services):
            found = unregistered_servers(self.registry, composition, environment)
            general += self._if_compose_matters(found)
            general += leftovers(self.registry)
        return Report(
            command=COMMAND,
            environment=str(self.settings.environment),
            provider="none",
            provider_reason="nothing was started or connected to",
            outcomes=tuple(self._with_duplicates(outcome) for outcome in outcomes),
            columns=COLUMNS,
            seconds=time.monotonic() - started,
            general=tuple(general),
            notes=(*composition.remarks, *self._note_of_cached_answers()),
        )

    def _note_of_cached_answers(self) -> Iterator[str]:
        if names := [service.name for service in self.services if service.name in self._cached]:
            yield (
                "The code of these services was not run again, because no input of it has changed: "
                f"{', '.join(names)}. `invoke {COMMAND} --fresh` runs it."
            )

    async def _check(self, service: Service, composition: Composition) -> Outcome:
        missing = [
            action_required(finding.problem, "Correct the registry, or add the file.")
            for finding in service.missing_files()
        ]
        user = self.settings.get("HULEEDU_DB_USER")
        differing = compose_differences(service, composition, user=user)
        problems = [*missing, *self._if_compose_matters(differing)]
        created = created_on(composition.containers, service, self.registry.root)
        problems += not_run(service, created, self.settings.provider)
        facts = dict.fromkeys(COLUMNS)
        output = ""
        if service.alembic_config.is_file():
            facts["head"], history_problems = await self._history(service)
            problems += history_problems
            try:
                found, answers = await self._ask(service)
            except HuleEduError as error:
                problems.append(action_required(error.message, hint_of(service, error)))
                output = error.output
            else:
                self._answers[service.name] = answers
                problems += found
                facts |= _columns(answers)
                output = _output(answers)
        outcome = Outcome(service=service.name, facts=facts, output=output)
        return outcome.with_problems(tuple(problems))

    async def _history(self, service: Service) -> tuple[str | None, Iterator[Problem]]:
        try:
            return named((await self.histories.history(service)).heads), iter(())
        except HuleEduError as error:
            texts = [str(finding) for finding in error.findings] or [error.message]
            remedy = hint_of(service, error) or "Correct it."
            return None, (action_required(text, remedy) for text in texts)

    def _if_compose_matters(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        """Reduce findings about compose files to INFO if the provider does not use them."""
        elsewhere = (ProviderName.EMBEDDED, ProviderName.EXISTING)
        without = self.settings.provider in elsewhere
        for problem in problems:
            yield replace(problem, level=Level.INFO, handled=True) if without else problem

    async def _ask(self, service: Service) -> tuple[list[Problem], Mapping[str, Answers]]:
        loaded = loaded_by(service, self.settings)
        own = environment_of(service, self.settings)
        environment = without_databases(own, self.registry)
        hidden = hiding(loaded, self.registry)
        cases = {case.name: case for case in matrix(service, hidden, self.registry.prefix)}
        answers = await self._answers_of(service, list(cases.values()), environment, loaded)
        suggestion, problems = None, []
        if not follows(answers[Situation.HANDED_OVER].env):
            if plain := await _with_plain_password(service, environment):
                answers[Situation.HANDED_OVER] = plain
                problems.append(password_not_encoded(service))
            else:
                suggestion = await _suggestion(service, environment)
        return [*problems, *differences(service, cases, answers, suggestion)], answers

    async def _answers_of(
        self,
        service: Service,
        cases: Sequence[Case],
        environment: Mapping[str, str],
        loaded: Mapping[str, str],
    ) -> dict[str, Answers]:
        """Return the answers of a service's code, from the cache if no input has changed.

        Only answers of an `env.py` that uses its URL are cached: one that does not is always run.
        """
        questions = addresses.questions_of(service, cases, environment)
        # The interpreter may be a name in PATH.
        path = environment.get("PATH", "") if service.python else ""
        details = [digest([json.dumps(questions)]), path]
        question = self.histories.question(service, ADDRESSES, details=details)
        cached = None if self.fresh else question.cached_answer()
        if cached is not None:
            self._cached.add(service.name)
            return {stated["case"]: Answers.from_json(stated) for stated in cached}
        began = time.time()
        asked = await addresses.ask_questions(
            service, questions, environment, loaded, records_inputs=question.state is not None
        )
        used, present = asked.used, question.present
        if (
            used
            and follows(asked.answers[Situation.HANDED_OVER].env)
            and not own_change_since(service, present, began)
            and not changed_since(service, used, present, began)
        ):
            stated = [{"case": n, **found.as_json()} for n, found in asked.answers.items()]
            question.cache_answer(stated, used)
        return asked.answers

    def _with_duplicates(self, outcome: Outcome) -> Outcome:
        """Add a finding if another service has the same database in development."""
        own = self._address(outcome.service)
        places = {s.name: found.place for s in self.services if (found := self._address(s.name))}
        others = [name for name, place in places.items() if own and place == own.place]
        sharing = {service.name for service in self.services if service.shared_database}
        if len(others) < 2 or sharing.issuperset(others):
            return outcome
        problem = action_required(
            f"{' and '.join(others)} have the same database in development: {own}",
            "Give each a separate database, in config.py or in the registry.",
        )
        return outcome.with_problems((*(outcome.problems or ()), problem))

    def _address(self, name: str) -> Address | None:
        """Return the address of a service in development; `None` if its code shows none."""
        answers = self._answers.get(name)
        found = answers[Situation.DEVELOPMENT] if answers else None
        answer = (found.config or found.env) if found else None
        return answer if isinstance(answer, Address) else None


async def _with_plain_password(service: Service, environment: Mapping[str, str]) -> Answers | None:
    """Run `env.py` with a password without special characters, for a service configured by parts.

    Its own code builds the URL, and may not percent-encode the password.

    Returns:
        The answers; `None` if `env.py` does not connect correctly with this password either.
    """
    if not fills_in(service.environment, "password"):
        return None
    case = handed_over(service, password=PLAIN_PASSWORD)
    answers = (await addresses.ask(service, [case], environment, {}))[case.name]
    return answers if follows(answers.env) else None


async def _suggestion(service: Service, environment: Mapping[str, str]) -> Suggestion | None:
    """Try the variables in the service's sources, with several drivers.

    Returns:
        The first combination with which `env.py` uses the URL; `None` if none works.
    """
    tried = {}
    for variable in (service.alembic_url_variable, *read_variables(service)):
        for scheme in (service.url_scheme, *SCHEMES):
            other = replace(service, alembic_url_variable=variable, url_scheme=scheme)
            tried[f"{variable} {scheme}"] = other
    cases = [handed_over(other, name) for name, other in tried.items()]
    try:
        answers = await addresses.ask(service, cases, environment, {})
    except MigrationError:
        # The findings are reported without a suggestion.
        return None
    return next(
        (
            Suggestion(variable=other.alembic_url_variable, url_scheme=other.url_scheme)
            for name, other in tried.items()
            if follows(answers[name].env)
        ),
        None,
    )


def _columns(answers: Mapping[str, Answers]) -> dict[str, str | None]:
    """Return the columns of the report for env.py and config.py."""
    handed_over = answers[Situation.HANDED_OVER].env
    config = answers[Situation.DEVELOPMENT].config
    return {
        "env.py": "follows" if follows(handed_over) else "differs",
        "config.py": str(config) if isinstance(config, Address) else "fails" if config else None,
    }


def _output(answers: Mapping[str, Answers]) -> str:
    env = answers[Situation.HANDED_OVER].env
    return env.output if isinstance(env, addresses.Failure) else ""
