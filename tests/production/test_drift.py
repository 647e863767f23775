"""`prod.drift`: read-only, also where migrations are pending."""

from tests.support.production import Production

BY_HAND = ("CREATE INDEX by_hand ON note (text)", "DROP INDEX by_hand")


def test_drift_is_found_and_named_and_pending_revisions_are_not_drift(
    production: Production,
) -> None:
    pending = production.monorepo.add_revision("beta", "b2", "a1")
    try:
        with production.changed(*BY_HAND):
            before = production.transactions()
            ran = production.invoke("prod.drift", "--check", "--json")
            assert production.transactions() == before
    finally:
        pending.unlink()
    assert ran.code == 4
    alpha, *others = ran.json["services"]
    assert (alpha["state"], alpha["revision"], alpha["database"]) == (
        "DRIFTED",
        "a1",
        "huleedu_alpha",
    )
    assert [found["object"] for found in alpha["drift"]] == ["index public.by_hand"]
    assert [other["drift"] for other in others] == [[], []]
