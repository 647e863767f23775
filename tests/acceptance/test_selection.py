"""Which services a command selects, and how the screen shows their state."""

import json
from urllib.parse import quote, urlsplit

import pytest

from tests.support.monorepo import PASSWORD, Monorepo
from tests.support.prepared import running_monorepo


def services(text: str) -> dict[str, str]:
    return {row["service"]: row.get("state", row["status"]) for row in json.loads(text)["services"]}


def test_services_are_named_by_one_flag_or_by_several(running: Monorepo) -> None:
    for flags in (["--service", "alpha,beta"], ["--service", "alpha", "--service", "beta"]):
        ran = running.invoke("db.status", "--json", *flags)
        assert list(services(ran.out)) == ["alpha", "beta"]


@pytest.mark.parametrize("names", ["alpha,", ",", "alpha,,beta"])
def test_an_empty_name_selects_nothing(running: Monorepo, names: str) -> None:
    ran = running.invoke("db.reset", "--service", names)
    assert (ran.code, ran.out) == (2, "")
    assert "No service is named ''" in ran.err


def test_the_error_for_an_unknown_service_suggests_the_closest_name(running: Monorepo) -> None:
    ran = running.invoke("db.status", "--service", "alpa")
    assert ran.code == 2
    assert "alpha" in ran.err


@pytest.mark.parametrize("task", ["db.url", "db.logs", "db.shell"])
def test_in_the_directory_of_a_service_a_command_selects_that_service(
    running: Monorepo, task: str
) -> None:
    inner = "services/beta_service/alembic"
    flags = {"db.shell": ["--command", "SELECT current_database()"], "db.logs": ["--dry-run"]}
    ran = running.invoke(task, *flags.get(task, []), cwd=inner)
    assert ran.code == 0, ran.err
    assert "beta" in ran.out + ran.err
    assert "alpha" not in ran.out + ran.err


def test_a_plain_url_has_no_driver_and_is_what_libpq_reads(running: Monorepo) -> None:
    flags = ["--service", "alpha", "--plain"]
    masked = running.invoke("db.url", *flags).out.strip()
    revealed = running.invoke("db.url", *flags, "--show-password").out.strip()
    assert masked == revealed.replace(quote(PASSWORD, safe=""), "***")
    assert revealed != masked
    assert urlsplit(revealed).scheme == "postgresql"
    everyone = running.invoke("db.url", "--plain").out
    assert everyone.count("postgresql://") == 3
    assert "asyncpg" not in everyone


def test_up_ends_with_the_urls(running: Monorepo) -> None:
    ran = running.invoke("db.up")
    shown = [line.split()[0] for line in ran.err.splitlines() if "://" in line]
    assert shown == ["alpha", "beta", "gamma"]
    assert PASSWORD not in ran.err


def test_status_names_the_state_of_each_database_and_the_next_command() -> None:
    with running_monorepo() as monorepo:
        monorepo.add_revision("beta", "b2", "a1")
        foreign = monorepo.add_revision("gamma", "theirs", "a1")
        assert monorepo.invoke("db.migrate", "--service", "gamma").code == 0
        foreign.rename(monorepo.path("services/alpha_service/alembic/versions/theirs.py"))
        ran = monorepo.invoke("db.status", "--check")
        alone = monorepo.invoke("db.status", "--service", "gamma")
        found = services(monorepo.invoke("db.status", "--json").out)
    assert ran.code == 4
    assert found == {"alpha": "BEHIND", "beta": "BEHIND", "gamma": "UNKNOWN REVISION"}
    assert "2 BEHIND, 1 UNKNOWN REVISION" in ran.err
    for shown in (ran, alone):
        assert "revision theirs is not in the code of gamma; it is a revision of alpha" in shown.out
    assert "Run `invoke db.migrate`." in ran.err
    assert "`invoke db.reset --service gamma`" in ran.err
