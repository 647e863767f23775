"""Which drift a migration of staging or production may run in spite of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from huleedu_tasks.report import Difference
from huleedu_tasks.schema.replay import Replays


@dataclass(frozen=True, kw_only=True)
class DriftCheck:
    """How a command looks for drift before a migration.

    Attributes:
        replays: Builds the expected schemas.
        accepted: The labels of objects whose drift is accepted, in every service.
        planned: The drift that a plan file accepts: digests by label, by service.
    """

    replays: Replays
    accepted: frozenset[str] = frozenset()
    planned: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def accepts(self, service: str, difference: Difference) -> bool:
        """Whether the migration may run in spite of a difference."""
        if difference.label in self.accepted:
            return True
        return self.planned.get(service, {}).get(difference.label) == difference.digest
