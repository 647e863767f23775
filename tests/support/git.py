"""Git repositories of tests."""

import os
import subprocess
from pathlib import Path


def git(root: Path, *arguments: str) -> None:
    """Run Git in a directory, without the settings of the developer."""
    own = ["-c", "user.name=tests", "-c", "user.email=tests@example.invalid"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(root), *own, *arguments]
    subprocess.run(command, check=True, capture_output=True, env=environment)


def commit_all(root: Path) -> None:
    """Make a directory a repository with one commit of all its files."""
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Begin")


def add_worktree(root: Path, name: str) -> Path:
    """Add a linked worktree beside a repository, and return its directory."""
    git(root, "worktree", "add", "--quiet", f"../{name}")
    return root.with_name(name)
