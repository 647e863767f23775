"""`prod.plan` runs the pending revisions on a throwaway copy of each schema."""

import json
from contextlib import ExitStack
from typing import Any

from tests.production.test_plan import pending, plan, planned
from tests.support.monorepo import USER
from tests.support.postgres import ask
from tests.support.production import Production, problems, selected

REHEARSED = {"HULEEDU_REHEARSAL": "true"}
SERVICES = ("alpha", "beta", "gamma")
# As that of a server that has more packages than this machine.
EXTENSION = (
    "INSERT INTO pg_extension SELECT 99999, 'nowhere', 10, 2200, false, '1.0'",
    "DELETE FROM pg_extension WHERE extname = 'nowhere'",
)
NAME = '"Odd.""na\'me; --%"'
FILLED = (
    "INSERT INTO note SELECT n, repeat('text', 100) FROM generate_series(1, 9) AS n",
    f'CREATE TABLE {NAME} (id integer, "a ""b" integer)',
    f"INSERT INTO {NAME} VALUES (1)",
    f"ALTER TABLE {NAME} OWNER TO {USER}",
    "CREATE FUNCTION grow() RETURNS void LANGUAGE plpgsql AS "
    "$$BEGIN ALTER TABLE note ALTER id TYPE bigint; END$$",
)
EMPTIED = ("TRUNCATE note", f"DROP TABLE {NAME}", "DROP FUNCTION grow()")
BLOCK = (
    "DO $$BEGIN EXECUTE 'ALTER TABLE note ADD stamp timestamptz DEFAULT clock_timestamp()'; END$$"
)
CALL = "SELECT grow()"
ODD = f'ALTER TABLE {NAME} DROP "a ""b"'
INDEX = "CREATE INDEX by_text ON note (text)"
HARMLESS = "ALTER TABLE note ALTER text TYPE varchar"
NEEDS_ROWS = """\
assert op.get_bind().exec_driver_sql("SELECT id FROM note").first(), "note has no rows"
op.execute("DROP TABLE note")
"""


def causes(found: dict[str, Any]) -> dict[str, str]:
    """Return the causes of the problems of each revision, in one line."""
    return {
        revision["revision"]: " | ".join(problem["cause"] for problem in revision["problems"])
        for revision in found["revisions"]
    }


def test_the_plan_has_what_the_revisions_did_and_an_approval_does_not_depend_on_it(
    production: Production,
) -> None:
    out = production.monorepo.root / "plan.json"
    with ExitStack() as stack:
        stack.callback(ask, production.admin(), *EMPTIED)
        ask(production.admin(), *FILLED)
        stack.enter_context(pending(production, b2=BLOCK, c3=CALL, d4=ODD, e5=HARMLESS, f6=INDEX))
        stack.enter_context(pending(production, "beta", b2=NEEDS_ROWS, c3="SELECT 1"))
        stack.enter_context(pending(production, "gamma", b2=INDEX))
        gamma_admin = production.admin("huleedu_gamma")
        stack.callback(ask, gamma_admin, EXTENSION[1], "TRUNCATE note")
        ask(gamma_admin, FILLED[0], EXTENSION[0])
        stack.callback(out.unlink, missing_ok=True)
        ran = plan(production, "--json", "--out", str(out), *selected(SERVICES), **REHEARSED)
        alpha, beta, gamma = (planned(ran, name) for name in SERVICES)
        assert ran.code == 0
        entry = json.loads(out.read_text())["services"][0]
        screen = plan(production, *selected(SERVICES), **REHEARSED)
        again = ("prod.migrate", "--dry-run", "--json", "--plan", str(out))
        assert production.invoke(*again).code == 0
        skipped = plan(production, "--json", "--no-rehearsal", "--service", "gamma", **REHEARSED)
    found = causes(alpha)
    assert alpha["rehearsed"] is True
    for revision in ("b2", "c3"):
        assert found[revision].startswith("rewrites 'note' (8 kB) under ACCESS EXCLUSIVE")
    assert "drops the column 'a \"b' of" in found["d4"]
    assert all(p["level"] != "ERROR" for one in alpha["revisions"] for p in one["problems"])
    # The text suggests a rewrite, which PostgreSQL does not do.
    assert "rewrite" not in found["e5"]
    # All revisions are one transaction.
    assert "'note' (8 kB) under the ACCESS EXCLUSIVE of b2, which blocks reads" in found["f6"]
    assert entry["rehearsed"] is True
    assert entry["tables"]["public.note"]["bytes"] == 8192
    assert "public.Odd.\"na'me; --%" in entry["tables"]
    assert not [name for name in entry["tables"] if not name.startswith("public.")]

    assert beta["rehearsed"] is False
    failure, *_ = beta["revisions"][0]["problems"]
    assert (failure["code"], failure["kind"]) == ("rehearsal-failed", "other")
    assert "AssertionError: note has no rows" in failure["cause"]
    assert "note has no rows" in screen.out

    assert gamma["rehearsed"] is False
    (reason,) = problems(ran, "gamma")
    assert (reason["level"], reason["code"]) == ("WARNING", "not-rehearsed")
    assert "nowhere" in reason["cause"]
    # Its text is judged instead.
    assert "builds the index 'by_text'" in causes(gamma)["b2"]
    assert problems(skipped, "gamma") == []
    assert planned(skipped, "gamma")["rehearsed"] is False
