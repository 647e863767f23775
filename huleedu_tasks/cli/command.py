"""The decorator that makes an Invoke task from a command; the only seam to Invoke's tasks.

Every command line imports the modules of this package, `invoke --list` and a completion too: what
only a running command needs is imported when it runs.
"""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

from invoke.exceptions import Exit
from invoke.tasks import Task, task

from huleedu_tasks.cli.command_line import REPEATABLE, split_names
from huleedu_tasks.errors import ExitCode

if TYPE_CHECKING:
    from invoke.context import Context

    from huleedu_tasks.cli.command_run import Body

P = ParamSpec("P")

HELP = {
    "service": "Work on these services only: NAME or NAME,NAME; may be repeated.",
    "json": "Print one JSON document on standard output.",
    "dry_run": "Say what would be done, and change nothing.",
    "jobs": "How many services are migrated at once.",
    "format": "Print markdown, github, sarif, gitlab, junit, json or html.",
    "out": "Write the report to FILE or FORM:FILE as well; may be repeated.",
}
# The flags that also have a letter, as the same flag of Alembic.
LETTERS = {"message": "m"}
POSITIONAL = ("name",)


class _Task(Task[Any]):
    """A task whose flags have the letters of `LETTERS`, and no others."""

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        """Return the options of a flag, as Invoke's parser takes them."""
        options: dict[str, Any] = super().arg_opts(name, default, taken_names)
        return options | {"names": [*options["names"], *LETTERS.get(name, "")]}


def command(**help_texts: str) -> Callable[[Body[P]], Task[Any]]:
    """Return a decorator that makes an Invoke task from a function of a `Command`.

    Args:
        help_texts: The `--help` strings of arguments that only this command has, by name.
    """

    def decorate(body: Body[P]) -> Task[Any]:
        signature = inspect.signature(body)
        parameters = list(signature.parameters)[1:]
        name = f"{body.__module__.rpartition('.')[2]}.{body.__name__.rstrip('_')}"

        @functools.wraps(body)
        def run(context: Context, *args: P.args, **kwargs: P.kwargs) -> None:
            from huleedu_tasks.cli.command_run import run_command

            if isinstance(names := kwargs.get("service"), list):
                kwargs["service"] = split_names(names)
            dry_run = bool(context.config.run.dry or kwargs.get("dry_run"))
            code = run_command(name, body, dry_run, *args, **kwargs)
            # The process ends soon, and need not destroy what the command loaded.
            gc.freeze()
            # Exit(0) would end the process, and skip the tasks named after this one.
            if code is not ExitCode.DONE:
                raise Exit(code=int(code))

        # Invoke asks for it twice, and would unwrap and inspect the function each time.
        run.__signature__ = signature  # type: ignore[attr-defined]  # Python, `inspect.signature`
        texts = {**HELP, **help_texts}
        return task(  # type: ignore[return-value]  # Invoke says Callable and returns a Task
            run,
            klass=_Task,
            name=body.__name__.rstrip("_"),
            auto_shortflags=False,
            positional=[name for name in POSITIONAL if name in parameters],
            iterable=[
                name
                for name in REPEATABLE
                if name in parameters and signature.parameters[name].default is None
            ],
            help={name: texts[name] for name in parameters if name in texts},
        )

    return decorate
