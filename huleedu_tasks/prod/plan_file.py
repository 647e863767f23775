"""What a plan holds fast: written to a file, read again, and compared with what is there now."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from huleedu_tasks.config.secret import redacted
from huleedu_tasks.errors import ConfigurationError, Refused
from huleedu_tasks.migrations.runner import named
from huleedu_tasks.prod.approval import Approval

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """What a plan holds fast of one service: a run keeps to it, or does nothing.

    Attributes:
        server: Its address; copies of one server have all else in common.
        before: The revisions the database is at.
        after: Those it shall be at.
        files: A hash of each revision's file, by revision, in the order they run.
        approval: The SQL that would run, and what it was made from; empty unless it was rendered.
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

    def changes_since(self, now: "PlanEntry") -> Iterator[str]:
        """Say what is no longer as it was pinned."""
        if (self.server, self.database) != (now.server, now.database):
            yield (
                f"was planned for {self.database} on {self.server}, and now leads to "
                f"{now.database} on {now.server}"
            )
        elif (self.system_identifier, self.database_oid) != (
            now.system_identifier,
            now.database_oid,
        ):
            yield f"{self.database} on {self.server} is another database than the planned one"
        if self.before != now.before:
            yield f"was at {named(self.before)}, and is at {named(now.before)} now"
        if self.after != now.after:
            yield f"was to go to {named(self.after)}, and the code's head is {named(now.after)} now"
        for revision, digest in self.files.items():
            if revision in now.files and now.files[revision] != digest:
                yield f"the file of revision {revision} has been edited"
        if set(self.files) != set(now.files) and self.before == now.before:
            yield f"other revisions lead there now: {', '.join(now.files) or 'none'}"

    def from_where(self, now: "PlanEntry") -> "PlanEntry":
        """Return what is left of this when the database has come as far as another pin says."""
        left = {name: digest for name, digest in self.files.items() if name in now.files}
        return replace(self, before=now.before, files=left)

    def as_json(self) -> dict[str, object]:
        """Return what stands in the plan's file, apart from the SQL and what it was made from."""
        facts = asdict(self) | {"before": list(self.before), "after": list(self.after)}
        del facts["approval"]
        return facts


def stale(planned: PlanEntry, now: PlanEntry) -> list[str]:
    """Return why a plan no longer holds; nothing if it does."""
    return [f"{planned.service}: {change}" for change in planned.changes_since(now)]


def write_plan(
    path: Path,
    services: Sequence[Mapping[str, object]],
    *,
    environment: str,
    commit: str | None,
    redact: Callable[[str], str],
) -> None:
    """Write a plan that `prod.migrate --plan` keeps to.

    Args:
        services: A pin as JSON for each service, with whatever else is to be read of it.
        redact: Masks every password: a revision may put one into its SQL.

    Raises:
        ConfigurationError: If the file cannot be written.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "environment": environment,
        "commit": commit,
        "services": list(services),
    }
    try:
        masked = redacted(document, redact)
        path.write_text(f"{json.dumps(masked, indent=2, ensure_ascii=False)}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"--out {path} cannot be written: {error.strerror}.",
            code="plan-unwritable",
            hint="Name a file in a directory that is there and yours.",
        ) from error


def read_plan(path: Path, *, environment: str) -> tuple[PlanEntry, ...]:
    """Read what a plan holds fast.

    Args:
        environment: The one it must have been made in.

    Raises:
        ConfigurationError: If there is no plan in the file.
        Refused: If it was made for another environment.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError("it is of another version")
        pins = tuple(map(_pin_in, document["services"]))
        made_in = document["environment"]
    except OSError as error:
        raise ConfigurationError(
            f"--plan {path} cannot be read: {error.strerror}.",
            code="plan-unreadable",
            hint="`invoke prod.plan --out FILE` writes a plan.",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"--plan {path} holds no plan: {type(error).__name__} {error}.",
            code="plan-unreadable",
            hint="`invoke prod.plan --out FILE` writes one.",
        ) from None
    if made_in != environment:
        raise Refused(
            f"The plan in {path} was made for {made_in}, and this is {environment}.",
            code="plan-environment-mismatch",
            hint=f"Make one here: `invoke prod.plan --out {path.name}`.",
        )
    return pins


def _pin_in(entry: Mapping[str, Any]) -> PlanEntry:
    fields = {name: entry[name] for name in PlanEntry.__dataclass_fields__ if name != "approval"}
    fields |= {"before": tuple(entry["before"]), "after": tuple(entry["after"])}
    approval = Approval(
        sql={each["revision"]: each["sql"] for each in entry["revisions"]},
        inputs=dict(entry["inputs"].items()),
    )
    return PlanEntry(**fields | {"files": dict(entry["files"].items()), "approval": approval})
