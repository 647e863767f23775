"""The checks of the configuration before the first connection to staging or production."""

from collections.abc import Iterator, Mapping, Sequence

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
from huleedu_tasks.errors import ConfigurationError, Finding
from huleedu_tasks.guard import require_external_environment


def require_configuration(
    services: Sequence[Service], settings: Settings, command: str
) -> dict[str, ResolvedUrl]:
    """Require a configuration without errors, as far as that is known without a connection.

    Args:
        services: The selected services, in registry order.
        settings: The unchecked settings.
        command: The name of the command, for the message.

    Returns:
        The direct URL of each service, by its name.

    Raises:
        Refused: In development and testing.
        ConfigurationError: If the configuration has errors; it contains all findings.
    """
    require_external_environment(settings, command)
    urls, errors = resolve_each(services, settings, resolve_direct)
    findings = [
        *settings.findings(),
        *findings_of([*_errors_of_usual_urls(services, settings), *errors]),
        *_same_address(services, urls),
        *_certificates(settings, urls),
        *(finding for service in services for finding in service.missing_files(seeds=False)),
    ]
    if findings:
        raise ConfigurationError(
            f"The {settings.environment.upper()} configuration has errors; nothing was "
            "connected to.",
            code="settings-invalid",
            # One wrong variable causes the same finding for every service.
            findings=list(dict.fromkeys(findings)),
            hint="Correct them; `invoke env.show` shows the source of each value.",
        )
    return urls


def _errors_of_usual_urls(
    services: Sequence[Service], settings: Settings
) -> list[ConfigurationError]:
    """Return the errors of the services' own URLs, which are checked if direct ones are used."""
    stated = [service for service in services if settings.get(service.url_variable)]
    _, errors = resolve_each(stated, settings, resolve)
    # With a direct URL, the service's own URL may list several hosts.
    return [error for error in errors if error.code != "url-several-hosts"]


def _same_address(
    services: Sequence[Service], urls: Mapping[str, ResolvedUrl]
) -> Iterator[Finding]:
    seen: dict[tuple[str, int, str], str] = {}
    sharing = {service.name for service in services if service.shared_database}
    for name, resolved in urls.items():
        url = resolved.url
        key = (url.host.lower(), url.port, url.database)
        if key in seen and not {name, seen[key]} <= sharing:
            problem = f"has the same database as {seen[key]}: {url.address}/{url.database}"
            yield Finding(place=f"{name} ({resolved.source})", problem=problem)
        seen.setdefault(key, name)


def _certificates(settings: Settings, urls: Mapping[str, ResolvedUrl]) -> Iterator[Finding]:
    variable = f"{EXTERNAL_PREFIX[settings.environment]}_SSLROOTCERT"
    stated = {variable: settings.get(variable)} | {
        resolved.source: resolved.url.tls.get("sslrootcert", "")
        for resolved in urls.values()
        if resolved.is_override
    }
    for place, file in stated.items():
        if file and (problem := certificates_problem(file)):
            yield Finding(place=place, problem=problem)
