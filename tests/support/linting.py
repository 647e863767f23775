"""Services whose revisions `migrations.lint` judges."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.lint_corpus import CorpusRevision
from tests.support.monorepo import Monorepo, Ran, free_ports

CORPUS_SERVICE = "corpus"
# The findings that stop a pull request, or that a reviewer must read.
SHOWN = ("ERROR", "WARNING")
REVISION = """\
from alembic import op

revision = {id!r}
down_revision = {parent!r}


def upgrade():
    {body}
"""


class LintedServices:
    """A monorepo with services on one server, and a branch `main`."""

    def __init__(self, monorepo: Monorepo) -> None:
        self.monorepo = monorepo
        (self._port,) = free_ports(1)

    def add(self, name: str, *sql: str) -> None:
        """Add a service, with one revision of the base branch."""
        self.monorepo.add_service(name, self._port, compose_service="one_db")
        for path in self._versions(name).glob("*.py"):
            path.unlink()
        self.revise(name, "a1", None, "\n    ".join(f"op.execute({one!r})" for one in sql))

    def revise(self, name: str, revision: str, parent: str | None, body: str) -> str:
        """Write a revision, and return its path."""
        path = f"services/{name}_service/alembic/versions/{revision}.py"
        text = REVISION.format(id=revision, parent=parent, body=body)
        self.monorepo.write(path, text)
        return path

    def git(self, *arguments: str) -> None:
        """Run Git."""
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        command = ["git", *identity, *arguments]
        subprocess.run(command, cwd=self.monorepo.root, check=True, capture_output=True)

    def commit(self) -> None:
        """Commit everything to a new branch `main`."""
        self.git("init", "--initial-branch=main")
        self.git("add", "--all")
        self.git("commit", "--message=first")

    def revise_with(self, corpus: Iterable[CorpusRevision]) -> None:
        """Write the revisions of the corpus."""
        parent = "a1"
        for one in corpus:
            self.revise(CORPUS_SERVICE, one.id, parent, one.body)
            parent = one.id

    def lint(self, *arguments: str) -> Ran:
        """Run the command."""
        return self.monorepo.invoke("migrations.lint", "--json", *arguments)

    def _versions(self, name: str) -> Path:
        return self.monorepo.path(f"services/{name}_service/alembic/versions")


def problems(ran: Ran, name: str) -> list[dict[str, Any]]:
    """Return the problems of a service."""
    (service,) = (one for one in ran.json["services"] if one["service"] == name)
    found: list[dict[str, Any]] = service["problems"]
    return found


def broken_rules(ran: Ran, revision: CorpusRevision) -> list[str]:
    """Return the rules that a revision of the corpus breaks."""
    return [
        problem["code"]
        for problem in problems(ran, CORPUS_SERVICE)
        if problem["path"].endswith(f"/{revision.id}.py") and problem["level"] in SHOWN
    ]
