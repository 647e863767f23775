"""The life of development databases, as a developer types it."""

from tests.support.monorepo import Monorepo


def test_reset_brings_every_service_to_head_with_seeds(monorepo: Monorepo) -> None:
    ran = monorepo.invoke("db.reset", "--json")
    assert ran.out, ran.err
    assert (ran.code, set(ran.statuses.values())) == (0, {"OK"}), ran.err
    status = monorepo.invoke("db.status", "--check", "--json")
    assert status.code == 0
    assert [(row["pending"], row["seeded"]) for row in status.json["services"]] == [(0, "yes")] * 3
