"""The revisions of the base branch, read from Git without a checkout."""

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huleedu_tasks import process
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.migrations.alembic_config import NotUnderstood, version_directories
from huleedu_tasks.migrations.edits import UNPARSED, code_digest
from huleedu_tasks.migrations.functions import line_of
from huleedu_tasks.migrations.revisions import History, Revision, named, read_revision
from huleedu_tasks.report import Level, Problem
from huleedu_tasks.repository import repository_root, shown

_GIT_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRevision:
    """A revision of the base branch.

    Attributes:
        digest: The digest of the code of its file.
    """

    revision: Revision
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The tip of the branch that a pull request is merged into.

    Attributes:
        ref: Its name, as the user stated it.
        commit: The commit it names.
        root: The root of the Git repository.
    """

    ref: str
    commit: str
    root: Path
    settings: Settings

    @classmethod
    async def find(cls, ref: str, start: Path, settings: Settings) -> "Base":
        """Return the commit that a reference names.

        Args:
            ref: A branch, a tag or a commit.
            start: A directory in the repository.

        Raises:
            ConfigurationError: If this is not a Git repository, if Git cannot read it, or if it
                does not have the commit.
        """
        root = repository_root(start)
        if root is None:
            raise ConfigurationError(
                f"{start} is not in a Git repository, so it has no {ref!r} to compare with.",
                code="not-a-repository",
                hint="Leave out `--base`, or run the command in a clone.",
            )
        found = cls(ref=ref, commit="", root=root, settings=settings)
        said = await found.git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        commit = said.output.strip()
        if said.returncode != 0 and commit:
            # `--quiet` keeps silent about an unknown commit only.
            raise _unread(ref, said)
        if said.returncode != 0 or ref.startswith("-"):
            shallow = await found.git("rev-parse", "--is-shallow-repository")
            raise ConfigurationError(
                f"The repository {root} has no commit {ref!r}.",
                code="base-unknown",
                hint=_hint(ref, is_shallow=shallow.output.strip() == "true"),
            )
        return cls(ref=ref, commit=commit, root=root, settings=settings)

    async def revisions(self, service: Service) -> Mapping[str, BaseRevision]:
        """Return the revisions of a service in the base branch, by their ids.

        Raises:
            ConfigurationError: If Git cannot read them.
            MigrationError: If the Alembic configuration cannot be read.
            NotUnderstood: If a file computes its revision ids.
        """
        names = [
            shown(directory.resolve(), self.root.resolve())
            for directory in version_directories(service)
        ]
        # Without `-z`, Git quotes a name that is not ASCII.
        listed = await self.git("ls-tree", "-z", "--name-only", self.commit, "--", *names)
        if listed.returncode != 0:
            raise _unread(self.ref, listed)
        found = listed.output.split("\0")
        present = [name for name in names if name in found]
        if not present:
            return {}
        with process.scratch_directory() as scratch:
            archive = scratch / "base.tar"
            done = await self.git(
                *("--literal-pathspecs", "archive", f"--output={archive}", self.commit, "--"),
                *present,
            )
            if done.returncode != 0:
                raise _unread(self.ref, done)
            with tarfile.open(archive) as opened:
                return dict(_read(opened, scratch, self.ref))

    async def git(self, *arguments: str) -> process.Completed:
        """Run Git in the repository.

        Raises:
            ConfigurationError: If Git is not installed.
        """
        try:
            return await process.run(
                ["git", *arguments],
                cwd=self.root,
                environment=self.settings.tool_environment(),
                timeout=_GIT_TIMEOUT,
            )
        except OSError as error:
            raise ConfigurationError(
                f"git could not be started: {error.strerror}",
                code="git-missing",
                hint="Install Git, or leave out `--base`.",
            ) from error


def new_revisions(history: History, base: Mapping[str, BaseRevision]) -> tuple[Revision, ...]:
    """Return the revisions that the base branch does not have, parents first."""
    return tuple(r for r in history.between((), history.heads) if r.id not in base)


def base_problems(
    service: Service, history: History, base: Mapping[str, BaseRevision], ref: str, root: Path
) -> Iterator[Problem]:
    """Yield a problem for each revision that does not follow the base branch, or changes it."""
    yield from _not_following(service, history, base, ref, root)
    for name, found in base.items():
        if name not in history.revisions:
            continue
        path = history.revisions[name].path
        now = code_digest(path.read_bytes())
        if UNPARSED not in (now, found.digest) and now != found.digest:
            yield Problem(
                level=Level.ERROR,
                cause=f"revision {name} was edited: {shown(path, root)} differs from {ref}",
                remedy="Write a new revision instead: databases that are past it do not change.",
                code="revision-edited",
                path=shown(path, root),
                line=1,
            )


def _not_following(
    service: Service, history: History, base: Mapping[str, BaseRevision], ref: str, root: Path
) -> Iterator[Problem]:
    known = History(revisions={name: found.revision for name, found in base.items()})
    both = History(revisions={**known.revisions, **history.revisions})
    if len(both.heads) < 2 or len(history.heads) > 1:
        # Several heads of the branch itself are another problem.
        return
    for revision in new_revisions(history, base):
        stale = [name for name in revision.parents if name in base and name not in known.heads]
        if stale or (base and not revision.parents):
            yield Problem(
                level=Level.ERROR,
                cause=f"revision {revision.id} follows {named(tuple(stale))}, and the head of "
                f"{ref} is {named(known.heads)}: {shown(revision.path, root)}",
                remedy=f"Rebase the branch on {ref}, and set down_revision to "
                f"{named(known.heads)!r}; or merge the heads: `invoke db.revision --service "
                f"{service.name} --merge -m TEXT`.",
                code="base-not-followed",
                path=shown(revision.path, root),
                line=line_of(revision, "down_revision"),
            )


def _read(archive: tarfile.TarFile, scratch: Path, ref: str) -> Iterator[tuple[str, BaseRevision]]:
    for path in _write_files(archive, scratch):
        try:
            revision = read_revision(path)
        except (SyntaxError, NotUnderstood) as error:
            raise NotUnderstood(
                f"The revisions of {ref} could not be read: {error}",
                code="base-unreadable",
                hint="State revision and down_revision as literals.",
            ) from error
        yield revision.id, BaseRevision(revision=revision, digest=code_digest(path.read_bytes()))


def _write_files(archive: tarfile.TarFile, scratch: Path) -> Iterator[Path]:
    """Write each Python file of an archive to a directory of its own, and yield its path.

    The paths in the archive are not used: one of a link may lead anywhere. A link is left out.
    """
    for number, member in enumerate(archive):
        name = PurePosixPath(member.name).name
        content = archive.extractfile(member) if member.isreg() else None
        if content is None or not name.endswith(".py") or name.startswith("__init__"):
            continue
        path = scratch / str(number) / name
        path.parent.mkdir()
        path.write_bytes(content.read())
        yield path


def _unread(ref: str, said: process.Completed) -> ConfigurationError:
    """Return the error of a Git command that failed, with its output."""
    return ConfigurationError(
        f"Git could not read {ref!r}: {said.output.strip()}",
        code="base-unknown",
        hint="Correct what Git states, and run the command again; or leave out `--base`.",
    )


def _hint(ref: str, *, is_shallow: bool) -> str:
    remote, _, branch = ref.partition("/")
    fetch = f"git fetch {remote} {branch}" if branch else f"git fetch origin {ref}"
    if is_shallow:
        return (
            f"The clone is shallow. Fetch it: `{fetch} --depth=1`, or set `fetch-depth: 0` in "
            "actions/checkout."
        )
    return f"Correct its name, or fetch it: `{fetch}`."
