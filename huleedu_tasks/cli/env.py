"""The environment: the settings and the `.env` file."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from huleedu_tasks.cli.command import command
from huleedu_tasks.cli.command_line import typed_before
from huleedu_tasks.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from huleedu_tasks.cli.command_run import Command
    from huleedu_tasks.config.settings import Value
    from huleedu_tasks.report import Fact, Message, Result


@command()
def init(app: Command, json: bool = False, dry_run: bool = False) -> Result:
    """Write .env with a development login, or add to it."""
    from huleedu_tasks.compose.configuration import INSTALL
    from huleedu_tasks.env.init import add_lines, write_env_file
    from huleedu_tasks.env.login import missing_login
    from huleedu_tasks.screen import prompts

    path = app.unchecked_settings.env_file
    is_there = path.exists()
    login = app.run(missing_login(app.stated_registry, app.unchecked_settings))
    if is_there and not login.values:
        return _said(path, f"{path} has every required setting; it was not changed.")
    if app.dry_run:
        what = f"add {login.shown} to {path}" if is_there else f"write {path}"
        return _said(path, f"dry run: would {what}.")
    if is_there:
        if prompts.has_person() and not prompts.agree(f"Add {login.shown} to {path}?"):
            raise Refused(
                f"{path} was not changed.",
                code="not-confirmed",
                hint=f"Add {login.shown} by hand.",
            )
        add_lines(path, login.values)
        text = f"Added {login.shown} to {path}; nothing else in it was changed."
    elif write_env_file(path.parent, login.values) is None:
        return _said(path, f"{path} already exists; it was not changed.")
    else:
        source = "a new development password" if login.is_generated else "the compose files' login"
        text = f"Wrote {path} with {source}, readable by you only."
    if login.unread:
        parts = "; ".join(map(str, login.unread))
        text += (
            f" The compose files may state another login, which was not read: {parts}. {INSTALL}"
        )
    if _git_would_take(path):
        text += f" Git does not ignore it yet: add {path.name} to .gitignore."
    return _said(path, text, is_written=True)


def _said(path: Path, text: str, *, is_written: bool = False) -> Message:
    from huleedu_tasks.report import Message

    facts: dict[str, Fact] = {"path": str(path), "written": is_written}
    return Message(command="env.init", text=text, facts=facts)


@command()
def show(app: Command, json: bool = False) -> Result:
    """Show each setting with its value and its source."""
    from huleedu_tasks.config.settings import SETTINGS
    from huleedu_tasks.instances.instance import INSTANCE_SETTING
    from huleedu_tasks.report import Listing

    settings = app.settings
    services = app.stated_registry.services
    rows = []
    overrides = [service.url_variable for service in services]
    direct = [service.direct_url_variable for service in services]
    # Few servers have a pooler, so the direct URL is shown only if it is set.
    direct = [name for name in direct if settings.get(name)]
    # HULEEDU_REGISTRY is rarely set, and does not use the registry's prefix.
    usual = [s.name for s in SETTINGS if s.name != "HULEEDU_REGISTRY" or settings.get(s.name)]
    for name in [*usual, *overrides, *direct]:
        value = settings.value(name)
        shown = settings.shown(name) or None
        if name == INSTANCE_SETTING:
            shown, value = _instance(app, value)
        rows.append({"variable": name, "value": shown, "source": value.source})
    return Listing(
        command="env.show",
        key="settings",
        columns=("variable", "value", "source"),
        rows=tuple(rows),
    )


@command(direnv="Print the content of an .envrc for direnv, which contains no password.")
def export(app: Command, service: Sequence[str] | None = None, direnv: bool = False) -> Result:
    """Print the URL variables for a shell, with passwords."""
    from huleedu_tasks.env import export as text
    from huleedu_tasks.guard import require_disposable_environment
    from huleedu_tasks.report import Message
    from huleedu_tasks.screen.streams import STANDARD_OUTPUT

    require_disposable_environment(app.settings, "env.export")
    services = app.services_here(service)
    if direnv:
        collection = typed_before("env.export", sys.argv).partition(" ")[2]
        command = text.own_command(sys.argv, f"{collection}env.export")
        content = text.direnv_text(command, _inputs(app), service or ())
        return Message(command="env.export", text=content)
    variables, several = text.exported(services, app.urls(services), str(app.settings.environment))
    if several:
        app.screen.say(
            f"Not exported: {', '.join(several)}, which several services share with different "
            "values. Name one service: `invoke env.export --service NAME`."
        )
    if os.isatty(STANDARD_OUTPUT):
        app.screen.say(
            'The passwords are masked on a terminal. In a shell, run `eval "$(invoke env.export)"`.'
        )
    else:
        app.screen.redact = str
    return Message(command="env.export", text=text.shell_text(variables))


def _inputs(app: Command) -> list[Path]:
    """Return the files that the variables depend on."""
    lease = [app.instance.lease] if app.instance else []
    return [app.registry_path, app.settings.env_file, *lease]


def _instance(app: Command, value: Value) -> tuple[str | None, Value]:
    """Return the name of the instance, None without one, and the value with the reason."""
    from huleedu_tasks.instances.instance import ignored_because

    if app.instance:
        return app.instance.name, replace(value, source=app.instance.reason)
    if value.text and (ignored := ignored_because(app.settings)):
        return None, replace(value, source=f"{value.source}; ignored: {ignored}")
    return value.text or None, value


def _git_would_take(path: Path) -> bool:
    """Whether a file is in a Git repository that does not ignore it."""
    from huleedu_tasks.process import output_of

    git = ["git", "-C", str(path.parent)]
    inside = output_of([*git, "rev-parse", "--is-inside-work-tree"]) == "true"
    return inside and not output_of([*git, "check-ignore", str(path)])
