"""`prod.drift`: read-only, also where migrations are pending."""

import json
from dataclasses import dataclass
from pathlib import Path

from tests.support.monorepo import Ran
from tests.support.observe import FORK_LOOP
from tests.support.postgres import ask
from tests.support.production import Production, bouncer, problems

ALPHA = ("--service", "alpha")

BY_HAND = ("CREATE INDEX by_hand ON note (text)", "DROP INDEX by_hand")
# Drift of the same object, and not the accepted one.
ANOTHER_INDEX = ("DROP INDEX by_hand", "CREATE INDEX by_hand ON note (text, id)")


@dataclass(frozen=True)
class Planned:
    """What a plan of one service found, and what it did for that.

    Attributes:
        runs: How often it ran `env.py`.
        imports: How many interpreters imported Alembic for that.
    """

    codes: list[str]
    has_dumped: bool
    has_replayed: bool
    runs: int
    imports: int = 1


# The SQL, the role and the version table; with a replay, its revisions as well.
UNCHANGED = Planned(codes=[], has_dumped=False, has_replayed=False, runs=2)
NEW = Planned(codes=[], has_dumped=True, has_replayed=True, runs=3)
DRIFTED = Planned(codes=["schema-drift"], has_dumped=True, has_replayed=True, runs=2)
TRACE = "\nwith open('../../traces/runs', 'a') as traces:\n    traces.write('.')\n"
# Every interpreter runs this on startup.
WITNESS = """\
import sys
with open({file!r}, "a") as told:
    told.write(" ".join(sys.orig_argv) + "\\n")
"""


def planned(production: Production) -> Planned:
    logs = Path(production.monorepo.state, "throwaway/embedded").glob("*/alpha_db/server.log")
    traces = production.monorepo.path("traces/runs")
    told = production.monorepo.path("traces/told")
    for trace in (traces, told):
        trace.unlink(missing_ok=True)
    before, replays = len(production.log), {log: log.read_text() for log in logs}
    variables = {"HULEEDU_DRIFT": "true", "PYTHONPATH": str(production.monorepo.path("witness"))}
    ran = production.invoke("prod.plan", "--json", *ALPHA, **variables)
    after = {log: log.read_text() for log in replays}
    return Planned(
        codes=[found["code"] for found in drift_problems(ran)],
        has_dumped="LOCK TABLE" in production.log[before:],
        has_replayed=after != replays or not replays,
        runs=len(traces.read_text()),
        imports=told.read_text().count(FORK_LOOP),
    )


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


def test_a_drifted_database_is_migrated_only_if_its_drift_is_accepted(
    production: Production,
) -> None:
    """`Production.invoke` verifies that nothing was changed, so the runs are dry runs."""
    pending = production.monorepo.add_revision("alpha", "b2", "a1")
    plan = production.monorepo.root / "plan.json"
    checked = {"HULEEDU_DRIFT": "true"}
    try:
        with production.changed(*BY_HAND):
            assert drift_problems(production.invoke("prod.validate", "--json", *ALPHA, **checked))
            assert not drift_problems(
                production.invoke("prod.validate", "--json", "--no-drift", *ALPHA, **checked)
            )
            writing = ("prod.plan", "--json", "--out", str(plan), *ALPHA)
            refused = production.invoke(*writing, **checked)
            assert (refused.code, plan.exists()) == (1, False)
            accepting = ("--accept-drift", "index public.by_hand")
            assert production.invoke(*writing, *accepting, **checked).code == 0
            (entry,) = json.loads(plan.read_text())["services"]
            assert list(entry["drift"]) == ["index public.by_hand"]
            migrating = ("prod.migrate", "--dry-run", "--json", "--plan", str(plan))
            assert production.invoke(*migrating, **checked).code == 0
            for flags in (accepting, ("--no-drift",)):
                conflict = production.invoke(*migrating, *flags, **checked)
                assert conflict.json["error"]["code"] == "argument-conflict"
            ask(production.admin(), *ANOTHER_INDEX)
            # The plan was made with a comparison, which the settings cannot switch off.
            changed = production.invoke(*migrating, HULEEDU_DRIFT="false")
        assert changed.code == 1
        assert [found["code"] for found in drift_problems(changed)] == ["schema-drift"]
    finally:
        pending.unlink()
        plan.unlink(missing_ok=True)


def test_a_plan_dumps_nothing_while_neither_the_schema_nor_its_history_changes(
    production: Production,
) -> None:
    told = production.monorepo.path("traces/told")
    told.parent.mkdir()
    production.monorepo.write("witness/sitecustomize.py", WITNESS.format(file=str(told)))
    env = production.monorepo.path("services/alpha_service/alembic/env.py")
    stated = env.read_text(encoding="utf-8")
    pending = production.monorepo.add_revision("alpha", "b2", "a1")
    try:
        env.write_text(stated + TRACE, encoding="utf-8")
        assert [planned(production), planned(production)] == [NEW, UNCHANGED]
        with production.changed(*BY_HAND):
            assert [planned(production), planned(production)] == [DRIFTED, DRIFTED]
        assert planned(production) == UNCHANGED
        pending.write_text(f"{pending.read_text()}# Edited.\n", encoding="utf-8")
        assert planned(production) == NEW
    finally:
        env.write_text(stated, encoding="utf-8")
        pending.unlink()


def test_no_schema_is_dumped_through_a_pooler(production: Production) -> None:
    with bouncer(production, "transaction") as port:
        before = len(production.log)
        ran = production.invoke("prod.drift", "--json", *ALPHA, HULEEDU_PROD_DB_PORT=str(port))
        assert "search_path" not in production.log[before:]
    (alpha,) = ran.json["services"]
    assert alpha["code"] == "lock-not-effective"
    assert "ALPHA_SERVICE_DIRECT_DATABASE_URL" in alpha["hint"]


def test_no_throwaway_database_is_created_on_the_server_of_a_url_variable(
    production: Production,
) -> None:
    stated = production.url(production.main.port, tls=production.verified())
    before = production.transactions()
    ran = production.invoke(
        "prod.drift",
        "--json",
        *ALPHA,
        HULEEDU_PROVIDER="existing",
        ALPHA_SERVICE_DATABASE_URL=stated,
    )
    assert ran.code == 0, ran.err
    assert production.transactions() == before


def drift_problems(ran: Ran) -> list[dict[str, str]]:
    return [found for found in problems(ran) if found.get("code") == "schema-drift"]
