"""The environment: the settings and the `.env` file."""

from pathlib import Path

from huleedu_tasks.cli.command import Command, command
from huleedu_tasks.config.env_file import write_env_file
from huleedu_tasks.config.settings import ENV_FILE, VARIABLES
from huleedu_tasks.process import output_of
from huleedu_tasks.report import Listing, Message, Result


@command()
def init(app: Command, json: bool = False, dry_run: bool = False) -> Result:
    """Write .env with a generated password, unless it exists."""
    root = app.registry_path.parent
    path = root / ENV_FILE
    if path.exists():
        text = f"{path} is there already; left as it is."
        return Message(command="env.init", text=text, facts={"path": str(path), "written": False})
    if app.dry_run:
        text = f"dry run: would write {path}."
        return Message(command="env.init", text=text, facts={"path": str(path), "written": False})
    written = write_env_file(root) is not None
    text = f"Wrote {path} with a new development password, readable by you only."
    if _git_would_take(path):
        text += f" Git does not ignore it yet: add {path.name} to .gitignore."
    return Message(command="env.init", text=text, facts={"path": str(path), "written": written})


@command()
def show(app: Command, json: bool = False) -> Result:
    """Show each setting, its value and where it came from."""
    settings = app.settings
    rows = []
    overrides = [service.url_variable for service in app.registry.services]
    direct = [service.direct_url_variable for service in app.registry.services]
    # Few servers have a pooler before them: a way around one is shown where it is stated.
    direct = [name for name in direct if settings.get(name)]
    for name in [*(variable.name for variable in VARIABLES), *overrides, *direct]:
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
    """Whether a file lies in a git repository that does not ignore it."""
    git = ["git", "-C", str(path.parent)]
    inside = output_of([*git, "rev-parse", "--is-inside-work-tree"]) == "true"
    return inside and not output_of([*git, "check-ignore", str(path)])
