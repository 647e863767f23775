"""Runs Alembic's command line in a child process, with any interpreter that has Alembic.

It is started by its path, needs nothing of this package, and takes Alembic's own arguments.
`python -m alembic` would not do: in a service's folder it imports `alembic/` from there.
"""

import os
import sys


def main() -> None:
    """Become `alembic`, with only the interpreter's own folders to import from."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != here]

    from alembic.config import main as alembic

    alembic(prog="alembic")


if __name__ == "__main__":
    main()
