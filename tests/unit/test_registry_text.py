"""Writing a registry: unchanged values keep their order and layout."""

import json
from typing import Any

import pytest

from huleedu_tasks.discovery.registry_text import registry_text

HAND_MADE = """\
{
    "$schema": "x.json",
    "services": [
        {"port": 5441, "name": "a",
         "seeds": []},

        {
            "name": "b",
            "port":5442
        }
    ]
}
"""


def changed(text: str, *path: Any, **values: Any) -> tuple[dict[str, Any], str]:
    """Return a registry with added values at one place, and its JSON."""
    document = json.loads(text)
    place = document
    for step in path:
        place = place[step]
    place.update(values)
    return document, registry_text(document, text)


def lines_added(old: str, new: str) -> list[str]:
    before = old.splitlines()
    return [line for line in new.splitlines() if line not in before]


def test_unchanged_json_is_kept_exactly() -> None:
    assert registry_text(json.loads(HAND_MADE), HAND_MADE) == HAND_MADE


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_field_is_added_in_the_layout_of_the_others(line_end: str) -> None:
    text = HAND_MADE.replace("\n", line_end)
    document, made = changed(text, "services", 1, volume="v")
    assert json.loads(made) == document
    assert made == text.replace('"port":5442', f'"port":5442,{line_end}            "volume": "v"')


def test_a_value_is_replaced_in_place() -> None:
    document, made = changed(HAND_MADE, "services", 0, port=5450)
    assert json.loads(made) == document
    assert made == HAND_MADE.replace("5441", "5450")


def test_a_field_of_the_registry_is_added_before_the_services() -> None:
    document, made = changed(HAND_MADE, compose_files=["db.yaml"])
    assert json.loads(made) == document
    assert lines_added(HAND_MADE, made) == ['    "compose_files": ["db.yaml"],']


def test_a_service_is_added_after_the_others() -> None:
    document = json.loads(HAND_MADE)
    document["services"].append({"name": "c", "port": 5443})
    made = registry_text(document, HAND_MADE)
    assert json.loads(made) == document
    assert lines_added(HAND_MADE, made) == ["        },", '        { "name": "c", "port": 5443 }']


def test_an_entry_that_loses_a_field_is_rewritten_and_the_others_are_kept() -> None:
    document = json.loads(HAND_MADE)
    del document["services"][0]["seeds"]
    made = registry_text(document, HAND_MADE)
    assert json.loads(made) == document
    assert made.endswith(HAND_MADE[HAND_MADE.index("\n\n") :])


@pytest.mark.parametrize(
    "text",
    [
        '{"services": []}',
        '{"services": [{"name": "a", "port": 1}]}',
        '{"prefix": "X"}',
        '\n{"services":[ {"name":"}],{","port":1} ] , "prefix": "ä"}',
    ],
)
def test_every_layout_is_parsed(text: str) -> None:
    document = json.loads(text)
    document["state_directory"] = "state"
    document["services"] = [
        *document.get("services", []),
        {"name": "é" * 60, "port": 2, "database": "long" * 20},
    ]
    assert json.loads(registry_text(document, text)) == document
