"""One self-contained HTML page of a report: no script, no network."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.report import Kind, Level, Outcome, Problem, Report, Status
from huleedu_tasks.screen.formats.contents import DRIFT, Contents

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# Cells that the cards and headings of the page show already.
_ON_CARD = ("from", "to", "current", "head", "revision", "pending", "differences", *Kind)
_TEMPLATES = Path(__file__).parent / "page"


def render_page(
    report: Report,
    contents: Contents,
    *,
    shown: Callable[[str], str],
    facts: Mapping[str, str],
) -> str:
    """Return the page of a report; a page of `prod.plan` has the plan inside.

    Args:
        contents: The same report, as the other forms need it.
        shown: Masks passwords, and escapes control characters.
        facts: Facts of the run, in the order of the page.
    """
    from markupsafe import Markup

    from huleedu_tasks.screen.formats.sealed_page import element, seal

    verdict = contents.verdict
    findings = [item for item in contents.items if not item.is_note]
    remedies = Counter(item.remedy for item in findings)
    page = (
        _environment(shown)
        .get_template("page.html")
        .render(
            report=report,
            items=findings,
            notes=[item for item in contents.items if item.is_note],
            # What to do next stands at the top, and is not repeated at each finding.
            said={step for step in verdict.steps if remedies[step] != 1},
            remedies=set(remedies),
            legend=contents.legend,
            summary=contents.summary,
            verdict=verdict,
            facts=facts,
            anchors={o.service: f"service-{n}" for n, o in enumerate(report.outcomes, 1)},
            columns=[column for column in report.columns if column not in _ON_CARD],
            plan=Markup(element(report.plan) if report.plan else ""),
        )
    )
    # A lone surrogate cannot be written to a file.
    page = page.encode("utf-8", "replace").decode() + "\n"
    return seal(page)


def _environment(shown: Callable[[str], str]) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from huleedu_tasks.screen.formats.graph_rows import graph_groups
    from huleedu_tasks.screen.formats.highlighting import highlighted_diff, highlighted_sql
    from huleedu_tasks.screen.formats.prose import blocks_of, parts_of

    def safe(value: object) -> object:
        # `Markup` comes from the filters below and from macros, which have masked it.
        return value if hasattr(value, "__html__") or not isinstance(value, str) else shown(value)

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        # Masked as a whole, because a password may contain what separates the parts.
        "sql": lambda text: highlighted_sql(shown(text)),
        "diff": lambda text: highlighted_diff(shown(text)),
        "blocks": lambda text: blocks_of(shown(text)),
        "parts": lambda text: parts_of(shown(text)),
        "groups": graph_groups,
        "cell": _cell,
        "breakable": lambda text: _breakable(shown(text)),
        "shown": shown,
        "word": _word,
        "counted": _counted,
        "times": lambda number, noun: f"{number} {noun}{'s' * (number != 1)}",
        "css": lambda text: text.lower().replace(" ", "-"),
        "sentence": lambda text: text[:1].upper() + text[1:],
    }
    environment.filters |= filters
    return environment


def _breakable(name: str) -> "Markup":
    """Return a name that may be wrapped at its separators; it is copied as it is."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(map(escape, re.findall(r"[^_./-]+[_./-]*|[_./-]+", name)))


def _counted(problems: Sequence[Problem] | None) -> int:
    """Return how many problems are more than information, and are not counted as drift."""
    return sum(one.level is not Level.INFO and one.code != DRIFT for one in problems or ())


def _word(outcome: Outcome) -> str:
    """Return the status of a service; a plan with pending revisions is not done yet."""
    return "PENDING" if outcome.planned and outcome.word == Status.OK else outcome.word


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
