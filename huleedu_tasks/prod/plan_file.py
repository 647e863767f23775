"""Plan entries: write them to a file, read them, and compare them with the current state."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from huleedu_tasks.config.secret import redact_values
from huleedu_tasks.errors import ConfigurationError, Refused
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.prod.approval import Approval
from huleedu_tasks.screen.formats.sealed_page import Unsealed, opened

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """What a plan fixes for one service; a run carries out exactly this or nothing.

    Attributes:
        service: The name of the service.
        server: The address of the server, which tells a server from its restored copies.
        system_identifier: PostgreSQL's identifier of the cluster; `None` if it cannot be read.
        before: The revisions of the database when the plan was made.
        after: The revisions after the run.
        files: The SHA-256 of each revision file, by revision, in the order of the run.
        approval: The SQL and its input files; empty if nothing was rendered.
        drift: The digests of accepted differences of the schema, by the label of the object;
            `None` if the schema was not compared.
    """

    service: str
    server: str
    database: str
    database_oid: int
    system_identifier: str | None
    before: tuple[str, ...]
    after: tuple[str, ...]
    files: Mapping[str, str]
    approval: Approval = field(default_factory=Approval, compare=False)
    drift: Mapping[str, str] | None = field(default=None, compare=False)

    def changes_since(self, now: "PlanEntry") -> Iterator[str]:
        """Yield a description of each difference between this entry and the current one."""
        if (self.server, self.database) != (now.server, now.database):
            yield (
                f"was planned for {self.database} on {self.server}, and now resolves to "
                f"{now.database} on {now.server}"
            )
        elif (self.system_identifier, self.database_oid) != (
            now.system_identifier,
            now.database_oid,
        ):
            yield f"{self.database} on {self.server} is not the planned database"
        if self.before != now.before:
            yield f"was at {named(self.before)}, and is at {named(now.before)} now"
        if self.after != now.after:
            yield f"was planned up to {named(self.after)}, and the head is {named(now.after)} now"
        for revision, digest in self.files.items():
            if revision in now.files and now.files[revision] != digest:
                yield f"the file of revision {revision} has been edited"
        if set(self.files) != set(now.files) and self.before == now.before:
            yield f"other revisions are pending now: {', '.join(now.files) or 'none'}"

    def from_where(self, now: "PlanEntry") -> "PlanEntry":
        """Return the remaining part of this entry for a database at a later revision.

        Args:
            now: The current entry, whose `before` is that revision.
        """
        left = {name: digest for name, digest in self.files.items() if name in now.files}
        approval = self.approval.part(now.files)
        return replace(self, before=now.before, files=left, approval=approval)

    def as_json(self) -> dict[str, object]:
        """Return the fields of the plan file, without the SQL and its input files."""
        facts = asdict(self) | {"before": list(self.before), "after": list(self.after)}
        del facts["approval"]
        return facts


def stale(planned: PlanEntry, now: PlanEntry) -> list[str]:
    """Return why a plan entry is stale, a sentence each; empty list if it is not."""
    return [f"{planned.service}: {change}" for change in planned.changes_since(now)]


def plan_document(
    services: Sequence[Mapping[str, object]],
    *,
    environment: str,
    commit: str | None,
    redact: Callable[[str], str],
) -> dict[str, object]:
    """Return the document of a plan, without passwords, for `prod.migrate --plan`.

    Args:
        services: The JSON entry of each service.
        environment: The environment that the plan was made for.
        commit: The checked-out commit; `None` if unknown.
        redact: Masks every password in a string; the SQL of a revision may contain one.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "environment": environment,
        "commit": commit,
        "services": list(services),
    }
    return {name: redact_values(value, redact) for name, value in document.items()}


def write_plan(path: Path, document: Mapping[str, object]) -> None:
    """Write a plan file.

    Raises:
        ConfigurationError: If the file cannot be written.
    """
    try:
        path.write_text(f"{json.dumps(document, indent=2, ensure_ascii=False)}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"--out {path} could not be written: {error.strerror}.",
            code="plan-unwritable",
            hint="Pass a file in an existing directory that you can write to.",
        ) from error


def read_plan(path: Path, *, environment: str) -> tuple[PlanEntry, ...]:
    """Read the entries of a plan file, or of a page that carries a plan.

    Args:
        environment: The environment that the plan must have been made for.

    Raises:
        ConfigurationError: If the file cannot be read, or is not a plan.
        Refused: If the plan was made for another environment, or the page is not as it was written.
    """
    try:
        document = json.loads(_json_in(path.read_bytes().decode()))
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError("its schema_version is not supported")
        pins = tuple(map(_pin_in, document["services"]))
        made_in = document["environment"]
    except OSError as error:
        raise ConfigurationError(
            f"--plan {path} could not be read: {error.strerror}.",
            code="plan-unreadable",
            hint="`invoke prod.plan --out FILE` writes a plan.",
        ) from error
    except Unsealed as error:
        raise Refused(
            f"The page {path} was edited or truncated after it was written: {error}.",
            code="plan-page-changed",
            hint="Use the page as it was written and approved, or make a new one: "
            f"`invoke prod.plan --out html:{path.name}`.",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"--plan {path} is not a plan file: {_reason(error)}.",
            code="plan-unreadable",
            hint="`invoke prod.plan --out FILE` writes one.",
        ) from None
    if made_in != environment:
        raise Refused(
            f"The plan in {path} was made for {made_in}, but the environment is {environment}.",
            code="plan-environment-mismatch",
            hint=f"Make a plan for {environment}: `invoke prod.plan --out {path.name}`.",
        )
    return pins


def _json_in(text: str) -> str:
    """Return the JSON of a plan file; of a page, that which it carries."""
    return opened(text) if text.lstrip().startswith("<") else text


def _reason(error: Exception) -> str:
    """Return why a document is not a plan, without the name of a Python exception."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _pin_in(entry: Mapping[str, Any]) -> PlanEntry:
    # Plans of earlier versions have no drift.
    entry = {"drift": None, **entry}
    fields = {name: entry[name] for name in PlanEntry.__dataclass_fields__ if name != "approval"}
    fields |= {"before": tuple(entry["before"]), "after": tuple(entry["after"])}
    approval = Approval(
        sql={revision["revision"]: revision["sql"] for revision in entry["revisions"]},
        inputs=dict(entry["inputs"].items()),
    )
    return PlanEntry(**fields | {"files": dict(entry["files"].items()), "approval": approval})
