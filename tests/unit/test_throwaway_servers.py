"""Throwaway servers: those of staging and production are never used."""

from huleedu_tasks.config.settings import Environment, ProviderName
from huleedu_tasks.schema.replay import disposable, external_addresses
from tests.support.values import service, settings


def test_a_command_in_production_has_no_throwaway_database_there() -> None:
    own = service()
    stated = settings(
        HULEEDU_ENVIRONMENT="production",
        HULEEDU_PROVIDER="existing",
        **{
            own.url_variable: "postgresql+asyncpg://u:p@127.0.0.1:5433/orders",
            own.direct_url_variable: "postgresql+asyncpg://u:p@DB.example.com:5432/orders",
        },
    )
    prepared = disposable(stated, [own])
    assert (prepared.environment, prepared.provider) == (Environment.DEVELOPMENT, ProviderName.AUTO)
    assert not {own.url_variable, own.direct_url_variable} & prepared.process.keys()
    assert external_addresses(stated, [own]) == {("localhost", 5433), ("db.example.com", 5432)}


def test_in_development_the_settings_apply_as_they_are() -> None:
    stated = settings(HULEEDU_PROVIDER="existing")
    assert disposable(stated, [service()]) is stated
    assert external_addresses(stated, [service()]) == set()
