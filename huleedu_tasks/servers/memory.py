"""What was learnt about containers that cannot change as long as they run.

Asking inside a container takes as long as a copy of a database. A container has another start
when it runs again, so that nothing here is ever out of date.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huleedu_tasks.servers.container_state import ContainerState

Facts = dict[str, Any]
# Containers that are remembered; those before them are long gone.
MOST = 200


@dataclass(slots=True, kw_only=True)
class Memory:
    """A file in the state folder; what it cannot tell is asked.

    Attributes:
        path: The file.
    """

    path: Path
    _facts: dict[str, Facts] | None = None

    def recall(self, container: ContainerState, fact: str) -> Any:
        """Return what is known, or None."""
        return self._known.get(_key(container), {}).get(fact)

    def note(self, container: ContainerState, fact: str, value: object) -> None:
        """Remember something of a container that runs."""
        self._known.setdefault(_key(container), {})[fact] = value
        latest = dict(list(self._known.items())[-MOST:])
        partial = self.path.with_suffix(".partial")
        # Whoever cannot write asks again the next time.
        with suppress(OSError):
            partial.write_text(json.dumps(latest), encoding="utf-8")
            partial.replace(self.path)

    @property
    def _known(self) -> dict[str, Facts]:
        if self._facts is None:
            self._facts = _facts_in(self.path)
        return self._facts


def _facts_in(path: Path) -> dict[str, Facts]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    # Somebody may have written to it by hand.
    pairs = known.items() if isinstance(known, dict) else ()
    return {key: facts for key, facts in pairs if isinstance(facts, dict)}


def _key(container: ContainerState) -> str:
    return f"{container.id} {container.started.isoformat()}"
