"""The `huleedu` command: the same tasks, for a monorepo whose `tasks.py` has tasks of its own.

Unlike `invoke` it looks for no `tasks.py`, and reads none of the project's `invoke.yaml`.
"""

import sys
from importlib.metadata import version

from invoke.program import Program

from huleedu_tasks.cli import namespace

DISTRIBUTION = "huleedu-tasks"


class HuleEdu(Program):
    """Invoke with the tasks already in it."""

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse Invoke's own flags, and have bytecode written although Invoke turned that off.

        The namespace does so too, but was imported before.
        """
        super().parse_core(argv)
        sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode)


program = HuleEdu(
    name=DISTRIBUTION,
    version=version(DISTRIBUTION),
    binary="huleedu",
    binary_names=["huleedu"],
    namespace=namespace,
)
