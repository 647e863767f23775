"""A finding, as every form has it."""

import hashlib
from dataclasses import dataclass

from huleedu_tasks.report import Kind, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One finding, without passwords.

    Attributes:
        services: The services that have it; empty if it belongs to none.
        code: The stable code; the name of the command if it has none.
        remedy: What to do about it, and the numbered steps, each on a line.
        path: The file, relative to the root of the repository; an empty string if there is none.
        line: The line in the file, from 1; None if it is not known.
        kind: What the statement of a planned revision does; an empty string for other findings.
        is_diff: Whether the statement is a diff, and no SQL.
        repeated: How many findings before it differ in their lines only.
    """

    services: tuple[str, ...]
    level: Level
    code: str
    cause: str
    remedy: str = ""
    statement: str = ""
    path: str = ""
    line: int | None = None
    kind: str = ""
    is_diff: bool = False
    repeated: int = 0

    @property
    def is_note(self) -> bool:
        """Whether it is for information only."""
        return self.level is Level.INFO or self.kind == Kind.STYLE

    @property
    def text(self) -> str:
        """The services and the cause."""
        return ": ".join(filter(None, (", ".join(self.services), self.cause)))

    @property
    def fingerprint(self) -> str:
        """A digest that stays the same when lines move."""
        number = [str(self.repeated)] if self.repeated else []
        identity = "\0".join((*self.services, self.code, self.path, self.cause, *number))
        return hashlib.sha256(identity.encode(errors="replace")).hexdigest()
