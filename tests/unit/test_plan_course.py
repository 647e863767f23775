"""What a page of a plan says about the run."""

from dataclasses import replace

import pytest

from huleedu_tasks.prod.plan_course import Changing, course_of
from tests.support.values import service, settings

CHANGING = Changing(
    service=service("a"),
    host="db.example.com",
    has_revisions=True,
    is_rehearsed=True,
    is_lossy=True,
)


def course(*changing: Changing, **variables: str) -> str:
    return "\n".join(course_of(changing, settings(**variables)))


def test_a_course_states_the_host_the_limits_and_what_a_failure_leaves() -> None:
    text = course(CHANGING, HULEEDU_LOCK_TIMEOUT="7", HULEEDU_STATEMENT_TIMEOUT="90")
    for part in ("`db.example.com`", "for 7 s at most", "5 attempts", "runs for 90 s", "600 s"):
        assert part in text
    for part in ("on a copy of the schema", "is lost", "goes on with the rest"):
        assert part in text
    assert "one after the other" not in text


def test_services_with_limits_of_their_own_are_named() -> None:
    other = replace(CHANGING, service=replace(CHANGING.service, name="b", lock_timeout=0))
    text = course(CHANGING, other)
    assert "a: a statement waits for a lock for 5 s at most" in text
    assert "b: a statement waits for a lock without limit" in text
    assert "one after the other: a, b." in text


@pytest.mark.parametrize("is_rehearsed", [False, None])
def test_a_course_claims_no_rehearsal_that_was_not(is_rehearsed: bool | None) -> None:
    text = course(replace(CHANGING, is_rehearsed=is_rehearsed, has_revisions=is_rehearsed is False))
    assert "on a copy of the schema" not in text
    assert ("only what their SQL suggests" in text) is (is_rehearsed is False)
    assert ("waits for a lock" in text) is (is_rehearsed is False)
