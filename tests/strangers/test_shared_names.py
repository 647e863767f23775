"""Services that read the same variable, and a renamed version table."""

from collections.abc import Iterator

import pytest

from tests.support.monorepo import ENV_PY, Monorepo, new_monorepo

SHARED = "DATABASE_URL"


@pytest.fixture(scope="module")
def alike() -> Iterator[Monorepo]:
    """Write two services that read one variable, and one with a separate version table."""
    with new_monorepo(["wiki", "chat", "ledger"]) as monorepo:
        for name in ("wiki", "chat"):
            config = f"services/{name}_service/config.py"
            text = monorepo.read(config).replace(f"{name.upper()}_SERVICE_DATABASE_URL", SHARED)
            monorepo.write(config, text)
        monorepo.write(
            "services/ledger_service/alembic/env.py",
            ENV_PY.replace(
                "connection=connection", 'connection=connection, version_table="ledger_versions"'
            ).replace("import asyncio", "import asyncio\nimport os")
            + '\nassert os.environ["LEDGER_ENVIRONMENT"] == "testing"\n',
        )
        wiki, chat, ledger = monorepo.services
        monorepo.register(
            {**wiki, "alembic_url_variable": SHARED},
            {**chat, "alembic_url_variable": SHARED},
            {**ledger, "environment": {"LEDGER_ENVIRONMENT": "{environment}"}},
        )
        monorepo.environment["HULEEDU_ENVIRONMENT"] = "testing"
        # The variable in the developer's environment, for another application.
        monorepo.environment[SHARED] = "postgresql://reader@elsewhere.invalid/else"
        yield monorepo


def test_every_service_is_migrated_in_its_own_database(alike: Monorepo) -> None:
    reset = alike.invoke("db.reset", "--json")
    assert reset.statuses == dict.fromkeys(("wiki", "chat", "ledger"), "OK"), reset.out
    assert [outcome["to"] for outcome in reset.json["services"]] == ["a1", "a1", "a1"]
    assert alike.invoke("db.status", "--check").code == 0


def test_the_check_finds_that_every_env_py_follows(alike: Monorepo) -> None:
    checked = alike.invoke("services.check", "--json")
    assert [outcome["env.py"] for outcome in checked.json["services"]] == ["follows"] * 3
    assert checked.code == 0
