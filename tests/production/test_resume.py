"""The same plan again: it goes on with exactly the rest, or states that it was carried out."""

import re
from collections.abc import Iterator

import pytest

from tests.production.test_migrate_faults import outcome
from tests.support.monorepo import Ran, wait_until
from tests.support.postgres import ask
from tests.support.rehearsal import ALPHA, ALPHA_AND_BETA, Rehearsal, locked, told

ENV_PY = "services/alpha_service/alembic/env.py"
CONFIGURE = "context.configure(connection=connection"
PLAN = ("--plan", "plan.json")
PATIENT = {"HULEEDU_LOCK_TIMEOUT": "60"}
RUN = r"\d{8}T\d{6}Z-[0-9a-f]{6}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
def rehearsal(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """Return the production, in which alpha commits each revision by itself."""
    text = rehearsal.monorepo.read(ENV_PY)
    each = text.replace(CONFIGURE, f"{CONFIGURE}, transaction_per_migration=True")
    rehearsal.monorepo.write(ENV_PY, each)
    yield rehearsal
    rehearsal.monorepo.write(ENV_PY, text)


def planned(rehearsal: Rehearsal, *services: str) -> None:
    ran = rehearsal.invoke("prod.plan", *services, "--out", "plan.json")
    assert ran.code == 0, ran.err


def refused(rehearsal: Rehearsal) -> str:
    """Run the plan, assert that it is refused, and return the findings."""
    ran = rehearsal.migrate(*PLAN)
    assert (ran.code, ran.json["error"]["code"]) == (3, "plan-changed"), ran.out
    return " ".join(finding["problem"] for finding in ran.json["error"]["findings"])


def kill_in_mid_plan(rehearsal: Rehearsal) -> None:
    """Kill a run of the plan while alpha's second revision waits for a lock."""
    with locked(rehearsal, "alpha"):
        child = rehearsal.start(*PLAN, **PATIENT)
        wait_until(
            lambda: rehearsal.running("alpha", "ALTER TABLE note") or child.poll() is not None
        )
        child.kill()
        child.communicate()
        wait_until(lambda: not rehearsal.sessions("alpha", "huleedu-tasks"))


def test_a_killed_and_a_failed_run_of_a_plan_are_gone_on_with_until_it_is_carried_out(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.revise("alpha", "b2", "a1")
    rehearsal.revise("alpha", "c3", "b2", "ALTER TABLE note ADD COLUMN colour text")
    rehearsal.revise("alpha", "d4", "c3")
    rehearsal.revise("beta", "b2", "a1", "CREATE UNIQUE INDEX ON note (text)")
    beta = rehearsal.production.admin("huleedu_beta")
    ask(beta, "INSERT INTO note VALUES (91, 'same'), (92, 'same')")
    planned(rehearsal, *ALPHA_AND_BETA)
    kill_in_mid_plan(rehearsal)
    assert rehearsal.at("alpha") == "b2"

    second = rehearsal.migrate(*PLAN, "--backup-command", 'echo "$HULEEDU_BACKUP_SERVICES" > rest')
    assert second.statuses == {"alpha": "OK", "beta": "FAILED"}, second.err
    said = rf"alpha: 1 of 3 revisions already applied by run {RUN} at {TIME}; 2 remain"
    assert re.search(said, " ".join(second.err.split()))
    alpha = told(second, "alpha")
    assert [revision["revision"] for revision in alpha["revisions"]] == ["c3", "d4"]
    assert (alpha["from"], alpha["to"], alpha["already_applied"]) == ("b2", "d4", ["b2"])
    assert rehearsal.monorepo.read("rest") == "alpha beta\n"

    ask(beta, "DELETE FROM note")
    third = rehearsal.migrate(*PLAN, "--backup-command", 'echo "$HULEEDU_BACKUP_SERVICES" > rest')
    assert third.code == 0, third.err
    assert (rehearsal.at("alpha"), rehearsal.at("beta")) == ("d4", "b2")
    assert rehearsal.monorepo.read("rest") == "beta\n"
    by = rf"already applied by run {RUN} at {TIME} and run {RUN} at {TIME}, nothing to do"
    assert re.fullmatch(by, told(third, "alpha")["detail"])

    fourth = rehearsal.migrate(*PLAN)
    assert fourth.code == 0, fourth.err
    assert fourth.json["notes"] == ["The plan was carried out before; nothing was changed."]
    _assert_the_runs_are_linked(rehearsal, fourth)


def _assert_the_runs_are_linked(rehearsal: Rehearsal, fourth: Ran) -> None:
    runs = rehearsal.history()
    ids = [run["run"] for run in reversed(runs)]
    assert [run["outcome"] for run in runs] == ["DONE", "DONE", "FAILED", "KILLED"]
    assert [run["resumes"] for run in runs] == [ids[:3], ids[:2], ids[:1], []]
    assert runs[-1]["resumed_by"] == [ids[3], ids[2], ids[1]]
    assert told(fourth, "alpha")["applied_by"] == ids[:2]
    screen = rehearsal.invoke("prod.history", "--run", ids[1]).out
    assert f"already applied by {ids[0]}: b2; 2 of the plan remain" in " ".join(screen.split())


def test_a_plan_in_part_is_refused_if_anything_else_than_its_progress_has_changed(
    rehearsal: Rehearsal,
) -> None:
    b2 = rehearsal.revise("alpha", "b2", "a1")
    rehearsal.revise("alpha", "c3", "b2", "ALTER TABLE note ADD COLUMN colour text")
    planned(rehearsal, *ALPHA)
    kill_in_mid_plan(rehearsal)
    ask(rehearsal.production.admin(), "UPDATE alembic_version SET version_num = 'c3'")
    assert re.search(rf"run {RUN} has not recorded that it applied b2, c3", refused(rehearsal))
    ask(rehearsal.production.admin(), "UPDATE alembic_version SET version_num = 'b2'")
    approved = b2.read_text()
    b2.write_text(f"{approved}\n# An edit.\n")
    assert "alpha: the file of revision b2 has been edited" in refused(rehearsal)
    b2.write_text(approved)
    added = rehearsal.revise("alpha", "d4", "c3")
    assert "was planned up to c3, and the head is d4 now" in refused(rehearsal)
    added.unlink()
    admin = rehearsal.production.admin()
    comment = rehearsal.comment("alpha")
    other = re.sub('"b2": "[0-9a-f]{8}', '"b2": "00000000', comment)
    ask(admin, f"COMMENT ON DATABASE huleedu_alpha IS '{other}'")
    assert "the file of revision b2 was not the approved one when run" in refused(rehearsal)
    unknown = re.sub(r', "revisions": \{.*\}\}', "}", comment)
    ask(admin, f"COMMENT ON DATABASE huleedu_alpha IS '{unknown}'")
    ask(admin, "UPDATE alembic_version SET version_num = 'c3'")
    assert "no run of prod.migrate has applied b2, c3: the database was stamped" in refused(
        rehearsal
    )


def test_of_two_jobs_at_once_one_carries_out_the_plan_and_a_later_one_without_a_tag_says_so(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha", revisions=("b2", "c3"), sql="SELECT pg_sleep(0.5)")
    planned(rehearsal, *ALPHA)
    jobs = [rehearsal.start(*PLAN) for _ in range(2)]
    ran = list(map(outcome, jobs))
    assert [job.code for job in ran] == [0, 0], ran
    assert rehearsal.at("alpha") == "c3"
    ask(
        rehearsal.production.admin(),
        "COMMENT ON DATABASE huleedu_alpha IS NULL",
        "ALTER DATABASE huleedu_alpha OWNER TO postgres_admin",
    )
    later = rehearsal.migrate(*PLAN)
    assert later.code == 0, later.err
    detail = "already at c3, applied by a run that is not recorded; nothing to do"
    assert told(later, "alpha")["detail"] == detail
    assert "Which run has applied it is not recorded." in later.json["notes"][0]
