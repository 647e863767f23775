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


# What may be written to a file.
_WRITABLE = tuple(form for form in Form if form is not Form.TERMINAL)
# The suffixes of the forms; a form comes first that is meant if `--format` does not decide.
_SUFFIXES = {
    Form.MARKDOWN: (".md",),
    Form.JSON: (".json",),
    Form.SARIF: (".sarif", ".json"),
    Form.GITLAB: (".json",),
    Form.JUNIT: (".xml",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The forms of one report.

    Attributes:
        printed: The form on standard output.
        files: The form of each file.
    """

    printed: Form = Form.TERMINAL
    files: tuple[tuple[Form, Path], ...] = ()


def parse_outputs(printed: str, files: Sequence[str], start: Path) -> Outputs:
    """Return the forms that a command line asks for.

    Args:
        printed: The value of `--format`; an empty string if it was not given.
        files: The values of `--out`, each `FILE` or `FORM:FILE`.
        start: The directory that the files are relative to.

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
    return Outputs(printed=form, files=tuple(_file(text, form, start) for text in files))


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
