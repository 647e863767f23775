"""One self-contained HTML page of a report: no script, no network."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.report import Kind, Level, Outcome, Report, Status
from huleedu_tasks.screen.formats.contents import Contents, Item

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# Cells that the cards and headings of the page show already.
_ON_CARD = ("from", "to", "current", "head", "pending", *Kind)
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
    from huleedu_tasks.screen.formats.verdict import verdict_of

    verdict = verdict_of(report, contents.items)
    page = (
        _environment(shown)
        .get_template("page.html")
        .render(
            report=report,
            items=sorted((item for item in contents.items if not _is_note(item)), key=_urgency),
            notes=[item for item in contents.items if _is_note(item)],
            has_next=bool(verdict.steps),
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
        "word": _word,
        "css": lambda text: text.lower().replace(" ", "-"),
        "sentence": lambda text: text[:1].upper() + text[1:],
    }
    environment.filters |= filters
    return environment


def _breakable(name: str) -> "Markup":
    """Return a name that may be wrapped at its separators; it is copied as it is."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(map(escape, re.findall(r"[^_.-]*[_.-]?", name)))


def _is_note(item: Item) -> bool:
    return item.level is Level.INFO or item.kind == Kind.STYLE


def _urgency(item: Item) -> tuple[int, int]:
    """Return the place of a finding: most severe first, what is destroyed before the others."""
    kinds = [*map(str, Kind), ""]
    return list(Level).index(item.level), kinds.index(item.kind)


def _word(outcome: Outcome) -> str:
    """Return the status of a service; a plan with pending revisions is not done yet."""
    return "PENDING" if outcome.planned and outcome.word == Status.OK else outcome.word


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
