"""Which instance a command works in: a fleet of databases beside the main one.

A linked worktree of Git has an instance of its own, and so has a checkout with HULEEDU_INSTANCE.
The state of all instances of a repository is in the state directory of its main worktree, where it
remains when a worktree is removed.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks.config.setting_types import NO_INSTANCE
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.config.worktree import linked_worktree

# The remedy for a port that another process has taken, as an imperative.
OTHER_PORTS = (
    "run `invoke db.instances --new-ports`, which gives this instance other ports, and then "
    "`invoke env.export` again"
)
INSTANCES_DIRECTORY = "instances"
LEASE_FILE = "lease.json"
# Of a derived name; the digest of the checkout's path makes it unique.
_LONGEST_NAME = 30
_DIGITS = 8
INSTANCE_SETTING = "HULEEDU_INSTANCE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A fleet of databases beside the main one, with ports and state of its own.

    Attributes:
        name: Its name, for the user.
        reason: Why it is used, for the screen.
        checkout: The directory of the registry that it belongs to.
        git_directory: The directory of the linked worktree in the Git directory; None if the
            checkout is not a linked worktree.
        home: The state directory of the main fleet.
        prefix: The prefix of the settings.
    """

    name: str
    reason: str
    checkout: Path
    git_directory: Path | None
    home: Path
    prefix: str

    @property
    def key(self) -> str:
        """Its name, and a digest of its checkout: two checkouts may use one name.

        A worktree that Git has moved keeps its instance.
        """
        place = self.git_directory or self.checkout
        digest = hashlib.sha256(f"{place}\0{self.home}".encode()).hexdigest()[:_DIGITS]
        return f"{self.name}-{digest}"

    @property
    def directory(self) -> Path:
        """Its state directory."""
        return self.home / INSTANCES_DIRECTORY / self.key

    @property
    def lease(self) -> Path:
        """The path of its lease."""
        return self.directory / LEASE_FILE

    @property
    def project(self) -> str:
        """The name of its compose project."""
        return f"{self.prefix.lower()}-{self.key}"

    def as_json(self) -> Mapping[str, str]:
        """Return the JSON object."""
        return {"name": self.name, "reason": self.reason}


def find_instance(
    settings: Settings, home: Path, *, earlier: Path | None = None
) -> Instance | None:
    """Return the instance of a checkout; None if it uses the main fleet.

    Only development and testing have instances, and existing servers have none.

    Args:
        settings: The settings, checked.
        home: The state directory of the main fleet.
        earlier: The directory with databases that the worktree had before it had an instance; None
            if there are none.
    """
    stated = settings.instance
    worktree = linked_worktree(settings.root)
    if ignored_because(settings) or stated == NO_INSTANCE or not (stated or worktree):
        return None
    if stated:
        reason = f"{INSTANCE_SETTING} ({settings.value(INSTANCE_SETTING).source})"
    else:
        reason = f"linked worktree of {worktree.main if worktree else ''}"
    if earlier:
        reason += (
            f"; its earlier databases are in {earlier}: {INSTANCE_SETTING}={NO_INSTANCE} uses them"
        )
    return Instance(
        # Git keeps this name when it moves the worktree.
        name=stated or _derived_name(worktree.git_directory.name if worktree else ""),
        reason=reason,
        checkout=settings.root.resolve(),
        git_directory=worktree.git_directory if worktree else None,
        home=home,
        prefix=settings.prefix,
    )


def ignored_because(settings: Settings) -> str:
    """Return why a checkout cannot have an instance, as a clause; empty if it can."""
    if not settings.environment.is_disposable:
        return f"{settings.environment} has no instances"
    # The settings need not be valid.
    if settings.get("HULEEDU_PROVIDER").strip().lower() == ProviderName.EXISTING:
        return "existing servers are the same for all instances"
    return ""


def _derived_name(directory: str) -> str:
    """Return a valid name for the instance of a worktree in a directory of that name."""
    return re.sub(r"[^a-z0-9]+", "-", directory.lower())[:_LONGEST_NAME].strip("-") or "worktree"
