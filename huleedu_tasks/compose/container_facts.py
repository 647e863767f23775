"""A cache of facts about containers that cannot change while they run.

A command in a container takes as long as a copy of a database. The key includes the time of the
container's start, so that no entry becomes stale.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huleedu_tasks.compose.container_state import ContainerState
from huleedu_tasks.compose.json_file import read_document, write_document

Facts = dict[str, Any]
# The number of containers that are kept, the most recent ones.
MOST = 200


@dataclass(slots=True, kw_only=True)
class ContainerFacts:
    """The cache, a JSON file in the state directory; an unreadable file is an empty cache.

    Attributes:
        path: The path of the file.
    """

    path: Path
    _facts: dict[str, Facts] | None = None

    def recall(self, container: ContainerState, fact: str) -> Any:
        """Return a cached fact; None if it is not known."""
        return self._known.get(_key(container), {}).get(fact)

    def note(self, container: ContainerState, fact: str, value: object) -> None:
        """Store a fact about a running container."""
        self._known.setdefault(_key(container), {})[fact] = value
        write_document(self.path, dict(list(self._known.items())[-MOST:]))

    @property
    def _known(self) -> dict[str, Facts]:
        if self._facts is None:
            # The file may have been edited.
            known = read_document(self.path).items()
            self._facts = {key: facts for key, facts in known if isinstance(facts, dict)}
        return self._facts


def _key(container: ContainerState) -> str:
    return f"{container.id} {container.started.isoformat()}"
