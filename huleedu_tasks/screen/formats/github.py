"""Workflow commands of GitHub Actions, which annotate the lines of a pull request."""

from huleedu_tasks.report import Level
from huleedu_tasks.screen.formats.contents import Contents
from huleedu_tasks.screen.formats.items import Item

_COMMANDS = {Level.ERROR: "error", Level.WARNING: "warning", Level.INFO: "notice"}


def render_github(contents: Contents) -> str:
    """Return one command on a line for each finding, and the summary."""
    lines = [_command(item) for item in contents.items]
    return "\n".join([*lines, f"::notice::{_data(contents.summary)}"]) + "\n"


def _command(item: Item) -> str:
    properties = {"file": item.path, "line": str(item.line or ""), "title": item.code}
    stated = ",".join(f"{name}={_property(text)}" for name, text in properties.items() if text)
    message = "\n".join(filter(None, (item.text, item.statement, item.remedy)))
    return f"::{_COMMANDS[item.level]} {stated}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
