"""The objects of a database's schema, with their definitions."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaObject:
    """One object of a schema.

    Attributes:
        kind: What it is, in lower case, for example `foreign table` or `privileges of table`.
        name: Its qualified name, quoted where PostgreSQL requires it. That of an object which
            belongs to a table begins with the table's, for example `public.note.note_pkey`.
        definition: The SQL that creates it, normalized for the comparison.
        owner: The role that owns it; an empty string if it has the owner of its parent.
        parent: The label of the object that it belongs to; an empty string if it has none.
    """

    kind: str
    name: str
    definition: str
    owner: str = ""
    parent: str = ""

    @property
    def label(self) -> str:
        """What identifies it in its schema, and in messages: `table public.note`."""
        return f"{self.kind} {self.name}"

    @property
    def text(self) -> str:
        """Everything that is compared."""
        return f"{self.definition}\nOWNER TO {self.owner}" if self.owner else self.definition


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The schema of a database.

    Attributes:
        objects: Its objects by their labels.
        major: The major version of the server.
    """

    objects: Mapping[str, SchemaObject]
    major: int

    def without(self, patterns: Iterable[str]) -> "Schema":
        """Return the schema without the objects that match a pattern, and what belongs to them.

        Args:
            patterns: Patterns of names or labels, such as `audit.*` or `index public.tmp_*`.
        """
        patterns = tuple(patterns)
        found = (label for label, one in self.objects.items() if _matches(one, patterns))
        return self.without_labels(frozenset(found))

    def without_labels(self, left_out: Set[str]) -> "Schema":
        """Return the schema without the objects with given labels, and what belongs to them."""
        kept = {
            label: found
            for label, found in self.objects.items()
            if left_out.isdisjoint(self.lineage(label))
        }
        return replace(self, objects=kept)

    def lineage(self, label: str) -> list[str]:
        """Return the label of an object, of its parent, of its parent's parent, and so on."""
        found = [label]
        while (parent := self.objects[found[-1]].parent) in self.objects and parent not in found:
            found.append(parent)
        return found


def schema_of(objects: Iterable[SchemaObject], *, major: int) -> Schema:
    """Return a schema. Definitions of objects with the same label become one.

    pg_dump shows default privileges of several roles, for example, under the same name.
    """
    found: dict[str, SchemaObject] = {}
    for one in objects:
        if same := found.get(one.label):
            definitions = sorted((same.definition, one.definition))
            found[one.label] = replace(same, definition="\n".join(definitions))
        else:
            found[one.label] = one
    return Schema(objects=found, major=major)


def _matches(found: SchemaObject, patterns: Iterable[str]) -> bool:
    return any(
        fnmatchcase(text, pattern) for pattern in patterns for text in (found.name, found.label)
    )
