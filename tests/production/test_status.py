"""`prod.status`: the revision of each production database, read from its version table."""

import pytest

from tests.support.monorepo import free_ports
from tests.support.observe import WORKER, watched_command_lines
from tests.support.production import Production

UNKNOWN = (
    "UPDATE alembic_version SET version_num = 'zz'",
    "UPDATE alembic_version SET version_num = 'a1'",
)
AT_HEAD = {"current": "a1", "head": "a1", "pending": 0}


def rows(
    production: Production, *flags: str, **variables: str
) -> tuple[int, list[dict[str, object]]]:
    """Run `prod.status --json`, and return its exit code and its row for each service."""
    ran = production.invoke("prod.status", "--json", *flags, **variables)
    keys = ("service", "status", *AT_HEAD)
    return ran.code, [{key: row.get(key) for key in keys} for row in ran.json["services"]]


def row(service: str, **facts: object) -> dict[str, object]:
    return {"service": service, "status": "OK", **AT_HEAD, **facts}


def test_at_head_nothing_is_pending_and_no_alembic_is_started(production: Production) -> None:
    before = production.transactions()
    with watched_command_lines() as lines:
        found = rows(production, "--check")
    assert found == (0, [row("alpha"), row("beta"), row("gamma")])
    assert lines.any_has("prod.status")
    root = str(production.monorepo.root)
    assert not [line for line in lines.seen if WORKER in line and root in line]
    assert production.transactions() == before


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--check",), 4)])
def test_a_database_behind_head_is_reported_and_a_check_exits_with_4(
    production: Production, flags: tuple[str, ...], code: int
) -> None:
    added = [
        production.monorepo.add_revision("beta", revision, parent)
        for revision, parent in (("b2", "a1"), ("c3", "b2"))
    ]
    try:
        found = rows(production, *flags)
    finally:
        for path in added:
            path.unlink()
    assert found == (code, [row("alpha"), row("beta", head="c3", pending=2), row("gamma")])


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--check",), 4)])
def test_an_unknown_revision_is_reported_and_a_check_exits_with_4(
    production: Production, flags: tuple[str, ...], code: int
) -> None:
    with production.changed(*UNKNOWN):
        found = rows(production, *flags)
        shown = production.invoke("prod.status").out
    assert found == (code, [row("alpha", current="zz", pending=None), row("beta"), row("gamma")])
    assert "alpha    UNKNOWN REVISION" in shown
    assert "revision zz is not in the revision files" in shown


def test_an_unreachable_database_fails_with_its_cause_and_the_others_are_reported(
    production: Production,
) -> None:
    (port,) = free_ports(1)
    ran = production.invoke(
        "prod.status", "--json", "--check", ALPHA_SERVICE_DATABASE_URL=production.url(port)
    )
    assert ran.code == 1
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK", "gamma": "OK"}
    alpha, *_ = ran.json["services"]
    assert alpha["server"] == f"localhost:{port}"
    assert alpha["detail"] == f"Nothing answers at localhost:{port}: Connection refused."
    assert "Check ALPHA_SERVICE_DATABASE_URL" in alpha["hint"]


def test_revisions_that_form_no_history_fail_with_the_files(production: Production) -> None:
    added = [production.monorepo.add_revision("gamma", name, "a1") for name in ("b2", "c2")]
    try:
        ran = production.invoke("prod.status", "--json", "--check")
    finally:
        for path in added:
            path.unlink()
    assert ran.code == 1
    assert ran.statuses == {"alpha": "OK", "beta": "OK", "gamma": "FAILED"}
    assert "one of several heads" in ran.json["services"][2]["detail"]
