"""The GitHub action and the GitLab template examine a pull request with their own shell steps."""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.git import git
from tests.support.pull_requests import (
    VERSIONS,
    PullRequest,
    Step,
    commit,
    head_of,
    pull_request,
    write_revision,
)

# Records its arguments; the file `comments` has the addresses of earlier comments.
GH = """\
#!/usr/bin/env bash
there="$(dirname "$0")/.."
printf '%s\\n' "$GH_TOKEN" "$@" >> "$there/gh"
if [ "$1" = pr ]; then cat "$there/comments" 2>/dev/null || true; fi
"""


@pytest.fixture(scope="module")
def request_() -> Iterator[PullRequest]:
    with pull_request() as made:
        program = made.temporary / "bin/gh"
        program.write_text(GH)
        program.chmod(0o755)
        yield made


def test_the_action_reports_the_dangerous_revision_of_a_pull_request(
    request_: PullRequest,
) -> None:
    base, checks, comment = request_.run_action(comment="true")
    assert base.code == 0, base.err
    assert checks.code == 4, checks.err
    dangerous = f"{VERSIONS}/c3.py"
    assert f"::error file={dangerous}," in checks.out
    assert "title=downgrade-incomplete" in checks.out
    text = checks.comment
    marker, heading = text.splitlines()[:2]
    assert marker.startswith("<!-- huleedu-tasks: migrations ")
    assert heading == "### migrations.check"
    assert "**Stop: 1 error in 1 of 1 service**" in text
    assert "### migrations.test\n" in text
    assert f"`{dangerous}:" in text
    assert errors(checks, "lint") == {("drops-column", dangerous)}
    assert errors(checks, "test") == {("downgrade-incomplete", dangerous)}
    # The summary has no marker.
    assert text.partition("\n")[2] == request_.read("summary.md")
    assert comment.code == 0, comment.err
    posted = request_.read("gh").splitlines()
    assert posted[0] == "a-token"
    assert "repos/acme/shop/issues/7/comments" in posted
    assert f"body=@{checks.outputs['comment']}.cut" in posted
    assert any(f'startswith("{marker}")' in argument for argument in posted)


def test_the_action_comments_only_if_there_is_something_to_say_or_to_replace(
    request_: PullRequest,
) -> None:
    earlier, recorded = request_.temporary / "comments", request_.temporary / "gh"
    for address in ("", "https://github.com/acme/shop/pull/7#issuecomment-12\n"):
        earlier.write_text(address)
        recorded.write_text("")
        *_, comment = request_.run_action(comment="true", checks="")
        assert comment.code == 0, comment.err
        posted = recorded.read_text().splitlines()
        assert ("PATCH" in posted) is bool(address)
        assert ("repos/acme/shop/issues/comments/12" in posted) is bool(address)
        assert "POST" not in posted
    earlier.unlink()


def errors(checks: Step, name: str) -> set[tuple[str, str]]:
    """Return the errors in the SARIF file of a check, each with its file."""
    (run,) = json.loads(Path(checks.outputs["sarif"], f"{name}.sarif").read_text())["runs"]
    return {
        (found["ruleId"], found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
        for found in run["results"]
        if found["level"] == "error"
    }


def test_the_template_of_gitlab_reports_the_same(request_: PullRequest) -> None:
    ran = request_.run_template(install=":")
    assert ran.code == 4, ran.err
    reports = request_.checkout / "migrations-report"
    quality = json.loads((reports / "code-quality.json").read_text())
    found = {(one["check_name"], one["location"]["path"]) for one in quality}
    assert {
        (code, f"{VERSIONS}/c3.py") for code in ("drops-column", "downgrade-incomplete")
    } <= found
    failures = ElementTree.parse(reports / "test.xml").findall(".//failure")
    assert [failure.get("type") for failure in failures] == ["downgrade-incomplete"]
    assert "### migrations.test" in (reports / "comment.md").read_text()


def test_a_merge_queue_finds_two_pull_requests_that_each_add_a_head(
    request_: PullRequest,
) -> None:
    """The queue adds the second pull request to a base that has the first one."""
    root = request_.origin.root
    git(root, "checkout", "-q", "main")
    drop = ("drop_column('note', 'text')", "execute('SELECT 1')")
    write_revision(request_.origin, "e5", "a1", "Another pull request", drop)
    commit(request_.origin, "Merge the first pull request")
    git(root, "checkout", "-q", "-b", "queue", "main")
    git(root, "merge", "-q", "--no-edit", "feature")
    request_.checked_out("queue")
    # The event of a pull request may have an old base; the checkout is a merge with that of now.
    request_.event_base = head_of(root, "main~1")
    (base, *_), request_.event_base = request_.run_action(checks=""), ""
    assert base.outputs["commit"] == request_.base
    hostile = "alpha; touch here"
    _, refused = request_.run_action("merge_group", checks="check", services=hostile)
    assert refused.code == 2
    assert not (request_.checkout / "here").exists()
    assert "failed before it had a report" in refused.comment
    _, checks = request_.run_action("merge_group", checks="check", services="alpha")
    assert checks.code == 4, checks.err
    assert "title=several-heads" in checks.out
