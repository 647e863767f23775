"""The action, the template and the hooks name commands and inputs that exist."""

import re
from typing import Any

import pytest
import yaml

from tests.support.commands import problem
from tests.support.documents import blocks, code, page, rows
from tests.support.monorepo import PROJECT
from tests.support.tasks import TASKS

HOOKS: list[dict[str, Any]] = yaml.safe_load((PROJECT / ".pre-commit-hooks.yaml").read_text())
ACTION: dict[str, Any] = yaml.safe_load((PROJECT / "action.yml").read_text())
TEMPLATE, JOB = yaml.safe_load_all((PROJECT / "templates/migrations.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
INPUTS: dict[str, dict[str, str]] = TEMPLATE["spec"]["inputs"]


def test_no_expression_is_a_part_of_a_script() -> None:
    """An input or a branch's name in a script would be run by the shell."""
    assert [step["name"] for step in STEPS if "${{" in step["run"]] == []
    (job,) = JOB.values()
    assert not any("$[[" in line for line in job["script"])


@pytest.mark.parametrize("checks", [ACTION["inputs"]["checks"], INPUTS["checks"]])
def test_every_check_is_a_task(checks: dict[str, str]) -> None:
    names = [f"migrations.{name}" for name in checks["default"].split()]
    assert names
    assert set(names) <= TASKS.keys()


def test_every_input_is_used_and_every_used_one_exists() -> None:
    used = set(re.findall(r"inputs\.([\w-]+)", yaml.safe_dump(STEPS)))
    assert used == ACTION["inputs"].keys()
    assert set(re.findall(r"inputs\.([\w-]+)", yaml.safe_dump(JOB))) == INPUTS.keys()


def test_every_hook_runs_a_command_and_slow_ones_only_by_hand() -> None:
    assert [problem(hook["entry"].split()) for hook in HOOKS] == [""] * len(HOOKS)
    by_default = [hook["id"] for hook in HOOKS if hook.get("stages") != ["manual"]]
    assert by_default == ["migrations-check"]


def test_a_hook_runs_for_a_revision_and_not_for_any_module() -> None:
    for hook in HOOKS:
        assert re.search(hook["files"], "services/nlp_service/alembic/versions/b2.py")
        assert not re.search(hook["files"], "services/nlp_service/routes.py")


def test_the_page_states_the_inputs_with_their_defaults() -> None:
    stated = {code(row[0]): code(row[1]) for row in rows(page("ci.md"), "input", "default", "")}
    assert stated.keys() == ACTION["inputs"].keys()
    for name in ("working-directory", "checks", "command", "comment"):
        assert stated[name] == ACTION["inputs"][name]["default"]


def test_the_page_uses_only_inputs_and_outputs_that_exist() -> None:
    workflow, include, *_ = (yaml.safe_load(text) for text in blocks(page("ci.md"), "yaml"))
    assert workflow[True] == {"pull_request": None, "merge_group": None}
    steps = workflow["jobs"]["migrations"]["steps"]
    (own,) = (step for step in steps if step.get("id") == "migrations")
    assert own["with"].keys() <= ACTION["inputs"].keys()
    outputs = re.findall(r"steps\.migrations\.outputs\.(\w+)", yaml.safe_dump(steps))
    assert set(outputs) <= ACTION["outputs"].keys()
    (included,) = include["include"]
    assert (PROJECT / included["file"]).is_file()
    assert included["inputs"].keys() <= INPUTS.keys()


def test_the_page_of_hooks_uses_only_hooks_that_exist() -> None:
    text = page("migrations.md")
    (example,) = (yaml.safe_load(block) for block in blocks(text, "yaml"))
    (repository,) = example["repos"]
    assert [hook["id"] for hook in repository["hooks"]] == [hook["id"] for hook in HOOKS]
    assert [(code(r[0]), code(r[1])) for r in rows(text, "hook", "runs", "when")] == [
        (hook["id"], hook["entry"]) for hook in HOOKS
    ]
