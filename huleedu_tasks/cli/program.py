"""The `huleedu` command: the same tasks, for a monorepo whose `tasks.py` has tasks of its own.

Unlike `invoke` it looks for no `tasks.py`, and reads none of the project's `invoke.yaml`.
"""

import sys
from importlib.metadata import version
from typing import Any

from invoke.program import Program

from huleedu_tasks.cli import namespace
from huleedu_tasks.screen.streams import STANDARD_OUTPUT, drop

DISTRIBUTION = "huleedu-tasks"


class HuleEdu(Program):
    """Invoke with the tasks already in it."""

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse Invoke's own flags, and have bytecode written although Invoke turned that off.

        The namespace does so too, but was imported before.
        """
        super().parse_core(argv)
        sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)

    def run(self, *arguments: Any, **options: Any) -> None:
        """Run, and end quietly where nobody reads on, as with `huleedu --list | head`."""
        try:
            try:
                super().run(*arguments, **options)
            finally:
                # Python has none where it was closed.
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            drop(STANDARD_OUTPUT)


program = HuleEdu(
    name=DISTRIBUTION,
    version=version(DISTRIBUTION),
    binary="huleedu",
    binary_names=["huleedu"],
    namespace=namespace,
)
