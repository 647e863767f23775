"""docs/lint.md has every rule, and the safer approaches that the findings show."""

import re

import pytest

from huleedu_tasks.migrations.hazard_rules import RECIPES, RULES, SUPPRESSION_RULES, Rule
from tests.support.documents import page, rows

PAGE = page("lint.md")


def test_the_page_has_every_rule_with_its_level() -> None:
    table = rows(PAGE, "rule", "level", "finds")
    listed = {re.sub(r"[\[\]`]|\(#.*\)", "", name): level for name, level, _ in table}
    known = [*RULES.values(), *SUPPRESSION_RULES]
    assert listed == {rule.name: str(rule.level) for rule in known}
    assert all(meaning.endswith(".") for _, _, meaning in table)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: str(rule.name))
def test_the_page_has_the_safer_approaches_of_a_rule(rule: Rule) -> None:
    section = PAGE.partition(f"\n### {rule.name}\n")[2].partition("\n### ")[0]
    assert rule.remedy in section
    recipes = RECIPES.get(rule.name, {})
    for title in recipes:
        assert f"\n{title}:\n" in section
    for steps in (rule.steps, *recipes.values()):
        numbered = (f"{number}. {step}" for number, step in enumerate(steps, start=1))
        assert "\n".join(numbered) in section


def test_each_rule_of_the_page_has_a_name_in_kebab_case() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)+", name) for name in RULES)
