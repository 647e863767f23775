"""The resolver and each service's own `config.py` give the same URL."""

from importlib import import_module
from itertools import product

import pytest

from huleedu_tasks.config.registry import Service, load_registry
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import resolve
from huleedu_tasks.errors import ConfigurationError
from tests.support.monorepo import PROJECT

SERVICES = load_registry(PROJECT / "services.json").services
HOSTILE = "p@ss#w%rd/1 +ö$'\""

DEVELOPMENT = {"HULEEDU_DB_USER": "us er", "HULEEDU_DB_PASSWORD": HOSTILE}


def external(prefix: str, **more: str) -> dict[str, str]:
    stated = {"HOST": "db.example.com", "PASSWORD": HOSTILE, **more}
    return {f"HULEEDU_{prefix}_DB_{name}": value for name, value in stated.items()}


ENVIRONMENTS = ["", "development", "testing", " Staging ", "PRODUCTION"]
VARIABLES: dict[str, dict[str, str]] = {
    "nothing": {},
    "user only": {"HULEEDU_DB_USER": "u"},
    "development": DEVELOPMENT,
    "empty password": {**DEVELOPMENT, "HULEEDU_DB_PASSWORD": ""},
    "external": {**external("PROD"), **external("STAGING")},
    "external by another user": {**DEVELOPMENT, **external("PROD"), **external("STAGING")},
    "port and IPv6": {
        **external("PROD", PORT="6432", HOST="2001:db8::1"),
        **external("STAGING", PORT="", HOST="10.0.0.1"),
    },
    "TLS": {
        **external("PROD", SSLMODE="require"),
        **external("STAGING", SSLMODE="verify-full", SSLROOTCERT="/etc/ssl/ca.pem"),
    },
    "certificate only": {
        **external("PROD", SSLROOTCERT="/etc/my ca+1&2.pem"),
        **external("STAGING", SSLROOTCERT="ca%.pem"),
    },
    "no host": {"HULEEDU_PROD_DB_PASSWORD": "x", "HULEEDU_STAGING_DB_PASSWORD": "x"},
}
MATRIX = list(product(ENVIRONMENTS, VARIABLES))


def resolved(service: Service) -> str | None:
    try:
        return resolve(service, Settings.load(PROJECT / "services")).reveal()
    except ConfigurationError:
        return None


def configured(service: Service) -> str | None:
    package = ".".join(service.directory.relative_to(PROJECT).parts)
    settings = import_module(f"{package}.config").settings
    try:
        return str(settings.DATABASE_URL)
    except ValueError:
        return None


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: str(service.name))
def test_resolver_and_config_agree_in_every_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    disagreements = {}
    found = set()
    for environment, variables in MATRIX:
        with monkeypatch.context() as patched:
            patched.setenv("HULEEDU_ENVIRONMENT", environment)
            for name, value in VARIABLES[variables].items():
                patched.setenv(name, value)
            mine, its = resolved(service), configured(service)
        found.add(mine)
        if mine != its:
            disagreements[environment, variables] = (mine, its)
    assert disagreements == {}
    assert None in found
    assert len(found) > len(ENVIRONMENTS)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: str(service.name))
@pytest.mark.parametrize("environment", ["development", "production"])
def test_an_override_takes_precedence_in_both_and_is_not_changed(
    service: Service, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+asyncpg://u:p%40ss@elsewhere:1/d?ssl=require"
    monkeypatch.setenv("HULEEDU_ENVIRONMENT", environment)
    monkeypatch.setenv(service.url_variable, url)
    assert resolved(service) == configured(service) == url


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: str(service.name))
@pytest.mark.parametrize(
    ("name", "value"),
    [("HULEEDU_ENVIRONMENT", "prodution"), ("HULEEDU_PROD_DB_PORT", "5_432")],
)
def test_both_refuse_the_same_configuration(
    service: Service, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HULEEDU_ENVIRONMENT", "production")
    for known, stated in external("PROD").items():
        monkeypatch.setenv(known, stated)
    assert resolved(service) == configured(service) is not None
    monkeypatch.setenv(name, value)
    assert resolved(service) is configured(service) is None
