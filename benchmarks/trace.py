"""Notes every Python process, and the directories it goes to.

Copied to a directory on PYTHONPATH as `sitecustomize.py`, where each interpreter runs it at its
start; a process that is forked has it from its parent.
"""

import os
import sys
from pathlib import Path

VARIABLE = "BENCHMARK_TRACE"
_notes = os.environ.get(VARIABLE)


def _note(directory: object) -> None:
    if _notes:
        with Path(_notes).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {directory}\n")


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "os.chdir":
        _note(arguments[0])


if _notes:
    sys.addaudithook(_audit)
    _note(Path.cwd())
