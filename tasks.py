"""The tasks of this monorepo: `invoke --list`."""

from huleedu_tasks.cli import namespace

__all__ = ["namespace"]
