"""Runs Alembic's command line in a child process, with any interpreter that has Alembic.

It is started by its path, needs nothing of this package, and takes Alembic's own arguments.
`python -m alembic` would not do: in a service's folder it imports `alembic/` from there.
"""

import os
import sys
import threading


def main() -> None:
    """Become `alembic`, imported from neither this folder nor the service's own."""
    end_with_parent()
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [path for path in sys.path if path and os.path.abspath(path) != here]
    # `PYTHONPATH=.` is the service's folder here; its own code may need it, Alembic must not.
    sys.path[:] = [path for path in paths if os.path.abspath(path) != os.getcwd()]

    from alembic.config import main as alembic

    sys.path[:] = paths
    alembic(prog="alembic")


def end_with_parent() -> None:
    """End at once when whoever started us does, even by SIGKILL.

    The parent holds the other end of our standard input and writes nothing. Migrations that went
    on alone would meet the next run's.
    """
    lifeline = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def watch() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
