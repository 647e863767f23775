"""What a run did with databases, over all its workers, for the report of pytest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VALID = "valid"


@dataclass(slots=True, kw_only=True)
class Totals:
    """The totals of one or more workers.

    Attributes:
        created: The number of databases.
        templates: How each service's template was built, or `valid`, by the service's name.
        problems: What went wrong in the background.
    """

    created: int = 0
    templates: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, worker: Mapping[str, Any]) -> None:
        """Add the totals of a worker, as `dataclasses.asdict` returns them."""
        self.created += worker["created"]
        self.templates |= worker["templates"]
        self.problems += worker["problems"]

    @property
    def lines(self) -> list[str]:
        """The lines of the report; empty if no database was used."""
        if not self.templates:
            return []
        valid = [name for name, how in self.templates.items() if how == VALID]
        built = [f"{name} {how}" for name, how in self.templates.items() if how != VALID]
        shown = [*([f"{', '.join(valid)} valid"] if valid else []), *built]
        databases = f"{self.created} database{'s' * (self.created != 1)}"
        return [f"{databases}; templates: {'; '.join(shown)}", *self.problems]
