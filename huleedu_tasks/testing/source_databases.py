"""Builds the sources of a test run, unless their templates are valid."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import HuleEduError, ServerError
from huleedu_tasks.migrations.inputs import Present
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.connections import maintenance_connection
from huleedu_tasks.postgres.server_errors import converted_errors
from huleedu_tasks.report import Outcome
from huleedu_tasks.templates.policy import TemplatePolicy
from huleedu_tasks.testing.failures import error_text
from huleedu_tasks.testing.testing_app import TestingApp
from huleedu_tasks.testing.totals import VALID


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The database that a service's test databases are copied from.

    Attributes:
        template: Its name; empty string if it could not be built.
        how: `valid`, or how it was built.
        failure: Why it could not be built; empty string if it was.
    """

    template: str = ""
    how: str = ""
    failure: str = ""

    def as_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return asdict(self)


async def prepare(
    app: TestingApp, names: Iterable[str], *, fresh: bool, tag: Mapping[str, str]
) -> dict[str, Source]:
    """Return the source of each service, by its name.

    Services that share a database with one of them are included.

    Args:
        names: The names of the services.
        fresh: Whether to build every source, even if its template is valid.
        tag: The run that sources without a template belong to.
    """
    services = app.services(list(names))
    try:
        with converted_errors():
            development = app.development(services, fresh=fresh).with_whole_databases()
            outcomes = await _start(app, development.services)
            running = [service for service in development.services if outcomes[service.name]]
            found = {} if fresh else await _templates(app, running)
    except HuleEduError as error:
        return _all_failed(app, services, error)
    missing = tuple(service for service in running if service.name not in found)
    if missing:
        try:
            with converted_errors():
                await _require_init_snapshots(app, missing)
                report = await replace(development, services=missing).reset()
                outcomes |= {outcome.service: outcome for outcome in report.outcomes}
                found |= await _build(app, [s for s in missing if outcomes[s.name]], tag)
        except HuleEduError as error:
            found |= _all_failed(app, missing, error)
    failed = {name: _failed(app, outcome) for name, outcome in outcomes.items() if not outcome}
    return found | failed


async def _start(app: TestingApp, services: Sequence[Service]) -> dict[str, Outcome]:
    """Start the servers of services, and return the outcome of each."""
    for service in services:
        # Refuses a URL that points elsewhere.
        app.source(service)
    starting = app.starting
    own = starting.services([service.name for service in services])
    report = await starting.development(own).up()
    return {outcome.service: outcome for outcome in report.outcomes}


async def _templates(app: TestingApp, services: Sequence[Service]) -> dict[str, Source]:
    """Return the sources of services with a valid template."""
    policy = TemplatePolicy(
        settings=app.settings,
        present=Present.of(app.settings),
        keeps_templates=app.provider.proves_identity,
        fresh=False,
    )

    async def find(members: Sequence[Service]) -> str:
        url = app.source(members[0])
        async with maintenance_connection(url) as admin:
            scripts = await app.provider.init_scripts(members[0])
            build = await policy.begin(admin, members, scripts)
            valid = await policy.find_valid(admin, build, url.database)
        return valid[0] if valid else ""

    # Services that share a database are one group.
    groups = {members[0].name: members for members in map(app.sharing, services)}.values()
    names = await asyncio.gather(*map(find, groups))
    return {
        member.name: Source(template=name, how=VALID)
        for members, name in zip(groups, names, strict=True)
        if name
        for member in members
    }


async def _require_init_snapshots(app: TestingApp, services: Sequence[Service]) -> None:
    """Require that init scripts have filled the servers, whose result each source begins with.

    Otherwise a reset could recreate a server, so that its init scripts run again.

    Raises:
        ServerError: If the init scripts have changed since the server was created.
    """
    for service in services:
        scripts = await app.provider.init_scripts(service)
        if not scripts:
            continue
        async with maintenance_connection(app.source(service)) as admin:
            # Init scripts do not know other databases than that of development.
            tag = await databases.read_tag(admin, clones.init_snapshot_name(service.database))
        if tag is None or tag.init != scripts:
            raise ServerError(
                f"{service.name}: the init scripts of {service.compose_service!r} have not run "
                "in their current version.",
                code="init-scripts-outdated",
                hint=f"Run `invoke db.reset --service {service.name}`.",
            )


async def _build(
    app: TestingApp, services: Sequence[Service], run: Mapping[str, str]
) -> dict[str, Source]:
    """Return the sources of services that were just built: the template, if one was kept."""
    found = await _templates(app, services)
    for service in services:
        url = app.source(service)
        async with maintenance_connection(url) as admin:
            tag = await databases.read_tag(admin, url.database)
            assert tag is not None, f"{url.database} was built without an environment tag"
            if service.name not in found:
                await databases.write_tag(admin, url.database, replace(tag, pytest=run))
            template = found.get(service.name, Source()).template or url.database
            found[service.name] = Source(template=template, how=tag.reset or "built")
    return found


def _all_failed(
    app: TestingApp, services: Sequence[Service], error: HuleEduError
) -> dict[str, Source]:
    failure = Source(failure=app.own_words(app.redact(error_text(error))))
    return dict.fromkeys((service.name for service in services), failure)


def _failed(app: TestingApp, outcome: Outcome) -> Source:
    error = HuleEduError(
        f"{outcome.service}: {outcome.detail}",
        code=outcome.code,
        hint=outcome.hint,
        output=outcome.output,
    )
    return Source(failure=app.own_words(app.redact(error_text(error))))
