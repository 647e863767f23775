"""The tasks and their arguments, read once: Invoke empties a task's help when it reads it."""

from typing import Any

from invoke.parser.argument import Argument
from invoke.tasks import Task

from huleedu_tasks.cli import namespace

TASKS: dict[str, Task[Any]] = {name: namespace[name] for name in namespace.task_names}
ARGUMENTS: dict[str, list[Argument]] = {name: TASKS[name].get_arguments() for name in TASKS}
