"""Runs Alembic's command line in a child process, with any interpreter that has Alembic.

It is started by its path, needs nothing of this package, and takes Alembic's own arguments.
`python -m alembic` would not do: in a service's folder it imports `alembic/` from there.
"""

import os
import sys


def main() -> None:
    """Become `alembic`, imported from neither this folder nor the service's own."""
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [path for path in sys.path if path and os.path.abspath(path) != here]
    # `PYTHONPATH=.` is the service's folder here; its own code may need it, Alembic must not.
    sys.path[:] = [path for path in paths if os.path.abspath(path) != os.getcwd()]

    from alembic.config import main as alembic

    sys.path[:] = paths
    alembic(prog="alembic")


if __name__ == "__main__":
    main()
