"""The documentation agrees with the code."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from huleedu_tasks.config.registry import load_registry, schema
from huleedu_tasks.config.setting_types import AnySetting
from huleedu_tasks.config.settings import SETTINGS, Settings
from huleedu_tasks.errors import ExitCode
from huleedu_tasks.report import SCHEMA_VERSION, Outcome, Report, State, Status
from tests.support.documents import blocks, code, page, rows
from tests.support.monorepo import PROJECT
from tests.support.tasks import ARGUMENTS

EXAMPLE = (PROJECT / "env.example").read_text(encoding="utf-8")
NAMES = [setting.name for setting in SETTINGS]
# Set for development only, by env.example and by env.init.
DEVELOPERS_OWN = {"HULEEDU_DB_USER": "huleedu_user", "HULEEDU_DB_PASSWORD": ""}
# The variables in the environment of a user's backup command.
HANDED_OVER = {"HULEEDU_BACKUP_SERVICES"}
TYPES = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "list of strings": {"type": "array", "items": {"type": "string"}},
    "list of objects": {"type": "array", "items": {"type": "object"}},
    "object of strings": {"type": "object", "additionalProperties": {"type": "string"}},
}
SAMPLES = [json.loads(block) for block in blocks(page("json.md"), "json")]
REPORTS = [sample for sample in SAMPLES if "provider" in sample]


# env.example and docs/environment.md


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: str(setting.name))
def test_the_example_sets_variables_with_defaults_and_comments_out_the_others(
    setting: AnySetting,
) -> None:
    lines = re.findall(rf"^(# )?{setting.name}=([^\s#]*)", EXAMPLE, re.MULTILINE)
    if setting.process_only:
        expected = []
    elif setting.name in DEVELOPERS_OWN:
        expected = [("", DEVELOPERS_OWN[setting.name])]
    else:
        expected = [("", setting.default) if setting.default else ("# ", "")]
    assert lines == expected


def test_the_example_names_no_variable_that_is_not_read() -> None:
    named = set(re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE, re.MULTILINE))
    overrides = {s.url_variable for s in load_registry(PROJECT / "services.json").services}
    assert named - set(NAMES) <= overrides
    assert dotenv_values(PROJECT / "env.example").keys() <= set(NAMES)


def test_the_page_has_every_variable_with_its_default_and_purpose() -> None:
    documented = rows(page("environment.md"), "name", "default", "meaning")
    stated = {code(name): (code(default), meaning) for name, default, meaning in documented}
    assert stated == {setting.name: (setting.default, setting.purpose) for setting in SETTINGS}
    assert len(documented) == len(SETTINGS)


def test_the_page_names_no_variable_that_is_not_read() -> None:
    pages = [page(path.name) for path in sorted((PROJECT / "docs").glob("*.md"))]
    named = set(re.findall(r"HULEEDU_[A-Z_]*[A-Z]\b(?![*_])", "\n".join(pages)))
    assert named - HANDED_OVER <= set(NAMES)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (code(line), code(value))
        for line, value, _ in rows(page("environment.md"), "line", "value", "rule")
    ],
)
def test_a_line_of_env_is_read_as_the_page_shows(tmp_path: Path, line: str, value: str) -> None:
    (tmp_path / ".env").write_text(line)
    assert Settings.load(tmp_path).get("NAME") == value


# docs/registry.md


@pytest.mark.parametrize("level", ["file", "service"])
def test_the_page_has_every_field_of_the_registry_with_its_type(level: str) -> None:
    document = schema()
    heading = {"file": "## The file", "service": "## A service"}[level]
    section = page("registry.md").partition(heading)[2].partition("\n## ")[0]
    described = document if level == "file" else document["$defs"]["service"]
    table = rows(section, "field", "type", "by convention", "meaning")
    assert {code(field) for field, *_ in table} == set(described["properties"])
    required = [code(field) for field, _, convention, _ in table if convention == "required"]
    assert sorted(required) == sorted(described["required"])
    for field, kind, _, meaning in table:
        allowed = alternatives(document, described["properties"][code(field)])
        assert sorted(map(str, allowed)) == sorted(str(TYPES[name]) for name in kind.split(" or "))
        assert meaning.endswith(".")


def alternatives(document: dict[str, Any], described: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternative types of a field, without its other properties."""
    if "$ref" in described:
        return alternatives(document, document["$defs"][described["$ref"].rpartition("/")[2]])
    if "oneOf" in described:
        return [kind for choice in described["oneOf"] for kind in alternatives(document, choice)]
    kind = {"type": described["type"]}
    for inner in ("items", "additionalProperties"):
        if isinstance(described.get(inner), dict):
            (kind[inner],) = alternatives(document, described[inner])
            kind[inner] = {"type": kind[inner]["type"]}
    return [kind]


@pytest.mark.parametrize("example", blocks(page("registry.md"), "json"))
def test_every_example_of_a_registry_is_valid(tmp_path: Path, example: str) -> None:
    path = tmp_path / "services.json"
    path.write_text(example)
    stated = json.loads(example)["services"]
    assert [service.name for service in load_registry(path).services] == [s["name"] for s in stated]


# docs/seeds.md


def test_every_script_of_the_page_is_a_seed() -> None:
    scripts = blocks(page("seeds.md"), "python")
    assert scripts
    for script in scripts:
        names = [n.name for n in ast.parse(script).body if isinstance(n, ast.AsyncFunctionDef)]
        assert names == ["seed"]


# docs/exit-codes.md and docs/json.md


def test_the_page_has_every_exit_code() -> None:
    table = rows(page("exit-codes.md"), "status", "name", "meaning")
    assert [(int(number), code(name)) for number, name, _ in table] == [
        (code.value, code.name) for code in ExitCode
    ]


def test_the_page_has_every_status() -> None:
    table = rows(page("exit-codes.md"), "status", "meaning")
    assert [code(name) for name, _ in table] == list(Status)


def test_the_page_shows_the_document_of_every_command_that_prints_one() -> None:
    reporting = {
        name
        for name, arguments in ARGUMENTS.items()
        if any(argument.name == "json" for argument in arguments)
    }
    assert {sample["command"] for sample in SAMPLES} == reporting


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample["command"]))
def test_every_sample_has_the_common_fields(sample: dict[str, Any]) -> None:
    assert list(sample)[:2] == ["schema_version", "command"]
    assert sample["schema_version"] == SCHEMA_VERSION
    assert sample["exit_code"] in list(ExitCode)


@pytest.mark.parametrize("sample", REPORTS, ids=lambda sample: str(sample["command"]))
def test_every_report_has_the_fields_the_page_lists(sample: dict[str, Any]) -> None:
    text = page("json.md")
    fields = {code(field) for field, *_ in rows(text, "field", "type", "meaning")}
    report = Report(command="", environment="", provider="", provider_reason="", outcomes=())
    general = {"general"} if sample["command"] == "services.check" else set()
    assert set(sample) - general == fields == set(report.as_json())
    assert general <= set(sample)
    own = {code(field) for field, *_ in rows(text, "field of a service", "type", "meaning")}
    failed = Outcome(service="", status=Status.FAILED, state=State.UNREACHABLE)
    assert own == set(failed.as_json())
    for service in sample["services"]:
        assert own - set(service) <= {"code", "output", "state"}
        assert ("code" in service) is ("output" in service) is (service["status"] != Status.OK)
        assert all(f"`{extra}`" in text for extra in set(service) - own)
