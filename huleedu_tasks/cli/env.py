"""The environment: the settings and the `.env` file."""

from pathlib import Path

from huleedu_tasks.cli.command import Command, command
from huleedu_tasks.config.dotenv import ENV_FILE
from huleedu_tasks.config.settings import SETTINGS
from huleedu_tasks.env.init import add_lines, write_env_file
from huleedu_tasks.errors import Refused
from huleedu_tasks.process import output_of
from huleedu_tasks.report import Fact, Listing, Message, Result
from huleedu_tasks.screen import prompts


@command()
def init(app: Command, json: bool = False, dry_run: bool = False) -> Result:
    """Write .env with a development login, or add to it."""
    from huleedu_tasks.compose.configuration import INSTALL
    from huleedu_tasks.env.login import missing_login

    path = app.registry_path.parent / ENV_FILE
    is_there = path.exists()
    login = app.run(missing_login(app.registry, app.unchecked_settings))
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
    facts: dict[str, Fact] = {"path": str(path), "written": is_written}
    return Message(command="env.init", text=text, facts=facts)


@command()
def show(app: Command, json: bool = False) -> Result:
    """Show each setting with its value and its source."""
    settings = app.settings
    rows = []
    overrides = [service.url_variable for service in app.registry.services]
    direct = [service.direct_url_variable for service in app.registry.services]
    # Few servers have a pooler, so the direct URL is shown only if it is set.
    direct = [name for name in direct if settings.get(name)]
    # HULEEDU_REGISTRY is rarely set, and does not use the registry's prefix.
    usual = [s.name for s in SETTINGS if s.name != "HULEEDU_REGISTRY" or settings.get(s.name)]
    for name in [*usual, *overrides, *direct]:
        value = settings.value(name)
        rows.append(
            {"variable": name, "value": settings.shown(name) or None, "source": value.source}
        )
    return Listing(
        command="env.show",
        key="settings",
        columns=("variable", "value", "source"),
        rows=tuple(rows),
    )


def _git_would_take(path: Path) -> bool:
    """Whether a file is in a Git repository that does not ignore it."""
    git = ["git", "-C", str(path.parent)]
    inside = output_of([*git, "rev-parse", "--is-inside-work-tree"]) == "true"
    return inside and not output_of([*git, "check-ignore", str(path)])
