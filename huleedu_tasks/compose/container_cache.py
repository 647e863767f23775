"""What was learnt about containers that cannot change as long as they run.

Asking inside a container takes as long as a copy of a database. A container has another start
when it runs again, so that nothing here is ever out of date.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huleedu_tasks.compose.container_state import ContainerState

Facts = dict[str, Any]
# Containers that are remembered; those before them are long gone.
MOST = 200


@dataclass(slots=True, kw_only=True)
class Memory:
    """A file in the state directory; what it cannot tell is asked.

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
        write_document(self.path, dict(list(self._known.items())[-MOST:]))

    @property
    def _known(self) -> dict[str, Facts]:
        if self._facts is None:
            # Somebody may have written to it by hand.
            known = read_document(self.path).items()
            self._facts = {key: facts for key, facts in known if isinstance(facts, dict)}
        return self._facts


def read_document(path: Path) -> dict[str, Any]:
    """Return what was written to a file; nothing if that cannot be read."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_document(path: Path, document: Mapping[str, object]) -> None:
    """Write a file as a whole or not at all; whoever cannot write asks again the next time."""
    partial = path.with_suffix(".partial")
    with suppress(OSError):
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(path)


def _key(container: ContainerState) -> str:
    return f"{container.id} {container.started.isoformat()}"
