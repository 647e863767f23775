"""What lies in a monorepo and belongs to no service of its registry."""

from collections.abc import Iterator

from huleedu_tasks.config.registry import SEED_FOLDER, Registry
from huleedu_tasks.report import Problem
from huleedu_tasks.survey.agreement import must_act

SEED_PATTERNS = ("seed_*.py", "seed_*.sql")


def leftovers(registry: Registry) -> Iterator[Problem]:
    """Find seeds without a service, and folders with migrations that are not registered."""
    used = {seed for service in registry.services for seed in service.seeds}
    folder = registry.root / SEED_FOLDER
    for path in sorted(path for pattern in SEED_PATTERNS for path in folder.glob(pattern)):
        if path not in used:
            yield must_act(
                f"the seed {path.relative_to(registry.root)} belongs to no service",
                "State it as 'seeds' of its service, or delete it.",
            )
