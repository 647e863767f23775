"""A pull request in a temporary repository, and the jobs of GitHub and GitLab that examine it.

`python -m tests.support.pull_requests DIRECTORY` writes what the action reports about it.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tests.support.git import commit_all, git
from tests.support.monorepo import ENV_PY, PROJECT, Monorepo, clean_environment, new_monorepo

ACTION = PROJECT / "action.yml"
TEMPLATE = PROJECT / "templates/migrations.yml"
PROGRAMS = Path(sys.executable).parent
VERSIONS = "services/alpha_service/alembic/versions"
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_INPUT = re.compile(r"\$\[\[ inputs\.([\w-]+) \]\]")
_BASE, _HEAD = "main", "feature"
_ENV_PY = "from models import metadata\n" + ENV_PY.replace(
    "connection=connection)", "connection=connection, target_metadata=metadata)"
)
_MODELS = """\
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table(
    "note",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("done", sa.Boolean),
)
sa.Table("tag", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
"""
_SEED = """\
async def seed(connection):
    await connection.execute("INSERT INTO note (id) VALUES (1) ON CONFLICT DO NOTHING")
"""
_REVISION = """\
\"\"\"{message}\"\"\"

import sqlalchemy as sa
from alembic import op

revision = {id!r}
down_revision = {parent!r}


def upgrade():
    op.{upgrade}


def downgrade():
    op.{downgrade}
"""
_COLUMN = "add_column('note', sa.Column({}))"
# Of the three revisions, the second loses data, and its downgrade does not restore NOT NULL.
_BRANCH = (
    ("b2", "Add done", _COLUMN.format("'done', sa.Boolean()"), "drop_column('note', 'done')"),
    ("c3", "Drop text", "drop_column('note', 'text')", _COLUMN.format("'text', sa.Text()")),
    (
        "d4",
        "Add tags",
        "create_table('tag', sa.Column('id', sa.Integer(), primary_key=True, autoincrement=False))",
        "drop_table('tag')",
    ),
)


@dataclass(frozen=True)
class Step:
    """How a step ended."""

    code: int
    out: str
    err: str
    outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def comment(self) -> str:
        """The report in Markdown."""
        return Path(self.outputs["comment"]).read_text(encoding="utf-8")


@dataclass
class PullRequest:
    """A shallow checkout of the branch `feature`, whose `origin` has the branch `main`.

    Attributes:
        origin: The monorepo with both branches.
        checkout: The clone with one commit.
        temporary: A directory for what the jobs write outside of the checkout.
        event_base: The base in the event of a pull request; that of now if it is empty.
    """

    origin: Monorepo
    checkout: Path
    temporary: Path
    event_base: str = ""

    @property
    def base(self) -> str:
        """The commit of the base branch."""
        return head_of(self.origin.root, _BASE)

    def checked_out(self, branch: str = _HEAD) -> None:
        """Check out a branch of the origin again, without its history."""
        shutil.rmtree(self.checkout, ignore_errors=True)
        url = f"file://{self.origin.root}"
        git(self.temporary, "clone", "-q", "--depth=1", "-b", branch, url, str(self.checkout))

    def run_action(self, event: str = "pull_request", **inputs: str) -> list[Step]:
        """Run the steps of the action as GitHub does, and return those that ran."""
        action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
        values = self._values(event)
        for name, given in action["inputs"].items():
            stated = inputs.get(name.replace("-", "_"), str(given["default"]))
            values[f"inputs.{name}"] = _evaluated(stated, values)
        steps = []
        for step in action["runs"]["steps"]:
            if not _holds(step.get("if", ""), values):
                continue
            steps.append(self._run_step(step, values))
            for name, text in steps[-1].outputs.items():
                values[f"steps.{step.get('id')}.outputs.{name}"] = text
        return steps

    def run_template(self, **inputs: str) -> Step:
        """Run the job of the GitLab template, as a runner does in an image without bash."""
        head, body = yaml.safe_load_all(TEMPLATE.read_text(encoding="utf-8"))
        stated = {name: str(given["default"]) for name, given in head["spec"]["inputs"].items()}
        stated |= {name.replace("_", "-"): text for name, text in inputs.items()}
        (job,) = _interpolated(body, stated).values()
        environment = self.environment(
            **job["variables"],
            CI_PROJECT_DIR=str(self.checkout),
            CI_MERGE_REQUEST_TARGET_BRANCH_NAME=_BASE,
        )
        script = "\n".join([*job["before_script"], *job["script"]])
        return self._run(["sh", "-e", "-c", script], self.checkout, environment)

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a job."""
        inherited = clean_environment()
        path = f"{self.temporary / 'bin'}:{PROGRAMS}:{inherited['PATH']}"
        return {**inherited, **self.origin.environment, **variables, "PATH": path}

    def read(self, name: str) -> str:
        """Return a file of the temporary directory."""
        return (self.temporary / name).read_text(encoding="utf-8")

    def _values(self, event: str) -> dict[str, str]:
        """Return what the expressions of the action stand for."""
        common = {
            "github.repository": "acme/shop",
            "github.token": "a-token",
        }
        if event == "merge_group":
            return common | {"github.event.merge_group.base_sha": self.base}
        return common | {
            "github.event.pull_request.base.sha": self.event_base or self.base,
            "github.event.pull_request.number": "7",
            "github.event.pull_request.head.repo.full_name": "acme/shop",
        }

    def _run_step(self, step: Mapping[str, Any], values: Mapping[str, str]) -> Step:
        assert step["shell"] == "bash"
        stated = {name: _evaluated(text, values) for name, text in step["env"].items()}
        summary, output = self.temporary / "summary.md", self.temporary / "output"
        summary.touch()
        output.write_text("")
        environment = self.environment(
            **stated,
            GITHUB_STEP_SUMMARY=str(summary),
            GITHUB_OUTPUT=str(output),
            RUNNER_TEMP=str(self.temporary),
            GITHUB_WORKSPACE=str(self.checkout),
            GITHUB_SHA=head_of(self.checkout),
            GITHUB_REPOSITORY=values["github.repository"],
        )
        script = self.temporary / "step.sh"
        script.write_text(step["run"])
        directory = self.checkout / _evaluated(step.get("working-directory", "."), values)
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        ran = self._run(command, directory, environment)
        lines = output.read_text().splitlines()
        return replace(ran, outputs=dict(line.split("=", 1) for line in lines))

    @staticmethod
    def _run(command: list[str], directory: Path, environment: dict[str, str]) -> Step:
        ran = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True
        )
        return Step(ran.returncode, ran.stdout, ran.stderr)


@contextmanager
def pull_request() -> Iterator[PullRequest]:
    """Make a pull request with three revisions, of which one is dangerous."""
    with new_monorepo(["alpha"]) as origin:
        origin.write("services/alpha_service/alembic/env.py", _ENV_PY)
        commit_all(origin.root)
        git(origin.root, "branch", "-M", _BASE)
        git(origin.root, "checkout", "-q", "-b", _HEAD)
        origin.write("services/alpha_service/models.py", _MODELS)
        origin.write("database/seed-scripts/seed_alpha.py", _SEED)
        parent = "a1"
        for revision, message, upgrade, downgrade in _BRANCH:
            write_revision(origin, revision, parent, message, (upgrade, downgrade))
            parent = revision
        commit(origin, "Drop the text of a note")
        temporary = origin.root.parent / "runner"
        (temporary / "bin").mkdir(parents=True)
        made = PullRequest(origin=origin, checkout=temporary / "checkout", temporary=temporary)
        made.checked_out()
        yield made


def head_of(repository: Path, name: str = "HEAD") -> str:
    """Return the commit that a name stands for."""
    found = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", name],
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip()


def write_revision(
    origin: Monorepo, revision: str, parent: str, message: str, functions: tuple[str, str]
) -> None:
    """Write a revision of the service alpha, from the calls in its upgrade and downgrade."""
    upgrade, downgrade = functions
    text = _REVISION.format(
        id=revision, parent=parent, message=message, upgrade=upgrade, downgrade=downgrade
    )
    origin.write(f"{VERSIONS}/{revision}.py", text)


def commit(origin: Monorepo, message: str) -> None:
    """Commit every change."""
    git(origin.root, "add", "--all")
    git(origin.root, "commit", "-q", "-m", message)


def _interpolated(node: Any, inputs: Mapping[str, str]) -> Any:
    """Return a part of a template of GitLab with the values of its inputs."""
    if isinstance(node, dict):
        return {
            _interpolated(key, inputs): _interpolated(value, inputs) for key, value in node.items()
        }
    if isinstance(node, list):
        return [_interpolated(item, inputs) for item in node]
    if isinstance(node, str):
        return _INPUT.sub(lambda found: inputs[found[1]], node)
    return node


def _evaluated(text: str, values: Mapping[str, str]) -> str:
    """Return a string of a workflow, with the values of its expressions."""

    def value(found: re.Match[str]) -> str:
        return next(filter(None, (values.get(name, "") for name in found[1].split(" || "))), "")

    return _EXPRESSION.sub(value, text)


def _holds(condition: str, values: Mapping[str, str]) -> bool:
    """Whether the condition of a step is true, in a job that is not cancelled."""
    terms = [term.strip() for term in condition.split("&&") if term.strip()]
    return all(_is_true(term, values) for term in terms if term != "!cancelled()")


def _is_true(term: str, values: Mapping[str, str]) -> bool:
    left, operator, right = term.split()
    sides = [
        side.strip("'") if side.startswith("'") else values.get(side, "") for side in (left, right)
    ]
    return (sides[0] == sides[1]) == (operator == "==")


def main(directory: Path) -> None:
    """Write what the action reports about the pull request."""
    with pull_request() as made:
        _, checks = made.run_action()
        sys.stderr.write(checks.out + checks.err)
        reports = Path(checks.outputs["comment"]).parent
        shutil.copytree(reports, directory, dirs_exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
