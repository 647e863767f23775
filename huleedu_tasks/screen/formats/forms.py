"""The names of the forms, and which form a file takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from huleedu_tasks.errors import ConfigurationError


class Form(StrEnum):
    """A form of a report."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    GITHUB = "github"
    SARIF = "sarif"
    GITLAB = "gitlab"
    JUNIT = "junit"
    JSON = "json"
    HTML = "html"


# What may be written to a file.
_WRITABLE = tuple(form for form in Form if form is not Form.TERMINAL)
# The suffixes of the forms; a form comes first that is meant if `--format` does not decide.
_SUFFIXES = {
    Form.MARKDOWN: (".md",),
    Form.JSON: (".json",),
    Form.SARIF: (".sarif", ".json"),
    Form.GITLAB: (".json",),
    Form.JUNIT: (".xml",),
    Form.HTML: (".html", ".htm"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The forms of one report.

    Attributes:
        printed: The form on standard output.
        files: The form of each file.
        plans: The plan files, which the command itself writes.
    """

    printed: Form = Form.TERMINAL
    files: tuple[tuple[Form, Path], ...] = ()
    plans: tuple[Path, ...] = ()

    @property
    def pages(self) -> tuple[Path, ...]:
        """The files that are pages."""
        return tuple(path for form, path in self.files if form is Form.HTML)

    @property
    def has_page(self) -> bool:
        """Whether one of the forms is a page."""
        return bool(self.pages) or self.printed is Form.HTML


def parse_outputs(
    printed: str, files: Sequence[str], start: Path, *, makes_plan: bool = False
) -> Outputs:
    """Return the forms that a command line asks for.

    Args:
        printed: The value of `--format`; an empty string if it was not given.
        files: The values of `--out`, each `FILE` or `FORM:FILE`.
        start: The directory that the files are relative to.
        makes_plan: Whether a file whose name tells no other form is the plan.

    Raises:
        ConfigurationError: If a form is unknown, or a file's name does not tell its form.
    """
    if printed not in ("", *Form):
        raise ConfigurationError(
            f"--format has no form {printed!r}.",
            code="argument-invalid",
            hint=f"Use one of: {', '.join(Form)}.",
        )
    form = Form(printed or Form.TERMINAL)
    plans = [text for text in files if makes_plan and _is_plan(text)]
    return Outputs(
        printed=form,
        files=tuple(_file(text, form, start) for text in files if text not in plans),
        plans=tuple(start / text for text in plans),
    )


def _is_plan(text: str) -> bool:
    name, colon, path = text.partition(":")
    if colon and path and name in _WRITABLE:
        return False
    suffixes = {suffix for form in _SUFFIXES for suffix in _SUFFIXES[form]}
    return bool(text) and Path(text).suffix not in suffixes - {".json"}


def _file(text: str, printed: Form, start: Path) -> tuple[Form, Path]:
    name, colon, path = text.partition(":")
    if colon and path and name in _WRITABLE:
        return Form(name), start / path
    suffix = Path(text).suffix
    fitting = [form for form, suffixes in _SUFFIXES.items() if suffix in suffixes]
    if not fitting:
        raise ConfigurationError(
            f"The name of --out {text!r} does not tell its form.",
            code="argument-invalid",
            hint=f"Write the form before it: `--out markdown:{text or 'FILE'}`. "
            f"The forms are {', '.join(_WRITABLE)}.",
        )
    return printed if printed in fitting else fitting[0], start / text
