"""The `huleedu` command: the same tasks, for a monorepo whose `tasks.py` has other tasks.

Unlike `invoke` it does not read the `tasks.py` and the `invoke.yaml` of the project.
"""

import difflib
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from huleedu_tasks.cli import namespace

DISTRIBUTION = "huleedu-tasks"
_UNKNOWN = re.compile(r"No idea what '([^']*)' is!")


class HuleEdu(Program):
    """Invoke with the tasks of this package loaded."""

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse Invoke's own flags, and enable bytecode files again, which Invoke disables.

        `huleedu_tasks.cli` does the same, but was imported before Invoke parses its flags.
        """
        super().parse_core(argv)
        sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

    def parse_tasks(self) -> None:
        """Parse the tasks and their flags, and suggest the closest name for an unknown one.

        Raises:
            ParseError: As Invoke does, with the suggestion.
        """
        try:
            super().parse_tasks()
        except ParseError as error:
            flags = error.context.flags if error.context else {}
            names = [*self.collection.task_names, *flags]
            raise ParseError(with_suggestion(str(error), names), error.context) from None

    def parse_cleanup(self) -> None:
        """Complete the name of a service, or act on Invoke's own flags.

        Raises:
            Exit: As Invoke does, if such a flag was given.
        """
        if self.args.complete.value and _complete_service(self.core.remainder):
            raise Exit
        super().parse_cleanup()

    def run(self, *arguments: Any, **options: Any) -> None:
        """Run, and exit quietly if the reader closed the pipe, as in `huleedu --list | head`."""
        from huleedu_tasks.screen.streams import STANDARD_OUTPUT, drop

        try:
            try:
                super().run(*arguments, **options)
            finally:
                # `None` if file descriptor 1 was closed.
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            drop(STANDARD_OUTPUT)


def _complete_service(line: str) -> bool:
    """Print the names of services that may follow; return whether there are any."""
    from huleedu_tasks.cli.completion import services_for
    from huleedu_tasks.report import Message
    from huleedu_tasks.screen.console import Screen

    names = services_for(line, Path.cwd())
    if names:
        Screen().show(Message(command="huleedu", text="\n".join(names)))
    return bool(names)


def with_suggestion(message: str, names: Sequence[str]) -> str:
    """Return Invoke's message about an unknown name with the closest known name, if any.

    Args:
        names: The full names of all tasks, and the flags of the task.
    """
    found = _UNKNOWN.search(message)
    if not found:
        return message
    typed = found[1]
    same = [name for name in names if name.rpartition(".")[2] == typed]
    close = same or difflib.get_close_matches(typed, names, n=1)
    return f"{message} Did you mean {' or '.join(close)}?" if close else message


program = HuleEdu(
    name=DISTRIBUTION,
    version=version(DISTRIBUTION),
    binary="huleedu",
    binary_names=["huleedu"],
    namespace=namespace,
)
