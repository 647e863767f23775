"""Turn the entries of an archive into schema objects."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from huleedu_tasks.schema.archive import NO_OPTION, Entry
from huleedu_tasks.schema.objects import SchemaObject
from huleedu_tasks.schema.sql_text import (
    first_identifier,
    identifiers,
    parenthesized,
    shown,
    split,
)

# Settings of the dump, properties of the whole database, and credentials.
IGNORED = frozenset(
    {"ENCODING", "STDSTRINGS", "SEARCHPATH", "DATABASE", "DATABASE PROPERTIES", "USER MAPPING"}
)
# In definitions, for the role that runs the migrations, whose name differs between servers.
MIGRATING_ROLE = "<migrating role>"
PRIVILEGES = frozenset({"ACL", "DEFAULT ACL"})
_TABLES = frozenset({"TABLE", "FOREIGN TABLE"})
_RELATIONS = _TABLES | {"VIEW", "MATERIALIZED VIEW"}
_CONSTRAINTS = frozenset({"CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT"})
_ROUTINES = frozenset({"FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR"})
_ABOUT = {"ACL": "privileges of", "COMMENT": "comment on", "SECURITY LABEL": "security label on"}
# The kinds of objects that belong to another one, with the kinds of those.
_PARENTS = {
    **dict.fromkeys(_CONSTRAINTS, _RELATIONS | {"DOMAIN"}),
    **dict.fromkeys(("DEFAULT", "INDEX", "TRIGGER", "RULE", "POLICY", "ROW SECURITY"), _RELATIONS),
    **dict.fromkeys(("STATISTICS", "SEQUENCE", "TABLE ATTACH"), _RELATIONS),
    "INDEX ATTACH": frozenset({"INDEX", *_CONSTRAINTS}),
    "SEQUENCE OWNED BY": frozenset({"SEQUENCE"}),
    "PUBLICATION TABLE": frozenset({"PUBLICATION"}),
    "PUBLICATION TABLES IN SCHEMA": frozenset({"PUBLICATION"}),
}
_WORDS = {
    **dict.fromkeys(_CONSTRAINTS, "constraint"),
    "DEFAULT ACL": "default privileges",
    "INDEX ATTACH": "index partition",
    "TABLE ATTACH": "partition",
}
_DEFAULT_PRIVILEGES = "DEFAULT PRIVILEGES FOR "
_ADD_CONSTRAINT = re.compile(r"ALTER (?:FOREIGN )?TABLE [^\n]*\n +ADD (?=CONSTRAINT )")
# Without it, such as CREATE on the schema public, the role could not migrate.
_OWN_PRIVILEGE = re.compile(rf"GRANT .* TO {MIGRATING_ROLE}", re.DOTALL)
# Until PostgreSQL 16 these were all privileges on a table; MAINTAIN exists since 17.
_ALL_UNTIL_16 = re.compile(
    "(GRANT|REVOKE) SELECT,INSERT,REFERENCES,DELETE,TRIGGER,TRUNCATE,UPDATE (?=ON TABLE)"
)
_WITH_MAINTAIN = 17
# PostgreSQL 18 names these constraints, and keeps the name when the table is renamed.
_NOT_NULL_NAME = re.compile(r'\bCONSTRAINT (?:"(?:[^"]|"")*"|[^\s"]+) (?=NOT NULL\b)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An entry with the entry that it belongs to, if any."""

    entry: Entry
    parent: "Place | None" = None

    @property
    def is_ignored(self) -> bool:
        """Whether it is no object of a schema."""
        return self.entry.kind in IGNORED or bool(self.parent and self.parent.entry.kind in IGNORED)

    @property
    def is_part(self) -> bool:
        """Whether it has the owner of another object."""
        return self.parent is not None or self.entry.kind in _ABOUT

    @property
    def root(self) -> Entry:
        """The entry of the object that is no part of another one."""
        return self.parent.root if self.parent else self.entry

    @property
    def kind(self) -> str:
        """What it is, in lower case, as in `SchemaObject`."""
        entry, parent = self.entry, self.parent
        if entry.kind in _ABOUT:
            kind = parent.kind if parent and not self._column else entry.name.partition(" ")[0]
            return f"{_ABOUT[entry.kind]} {kind.lower()}"
        return _WORDS.get(entry.kind, entry.kind.lower())

    @property
    def name(self) -> str:
        """Its qualified name, as in `SchemaObject`."""
        entry, parent = self.entry, self.parent
        if entry.kind in _ABOUT and parent:
            return shown(entry.schema, *self._column) if self._column else parent.name
        if parent and entry.name.startswith(f"{parent.entry.name} "):
            schema = entry.schema if entry.schema != parent.entry.schema else ""
            name = entry.name.removeprefix(f"{parent.entry.name} ")
            return f"{parent.name}.{shown(schema, name)}"
        if entry.kind in _ABOUT:
            return shown(entry.schema, entry.name.partition(" ")[2])
        if entry.kind == "DEFAULT ACL":
            return shown(entry.schema, entry.name.removeprefix(_DEFAULT_PRIVILEGES).lower())
        return (
            _with_arguments(entry) if entry.kind in _ROUTINES else shown(entry.schema, entry.name)
        )

    @property
    def label(self) -> str:
        """What identifies it in its schema."""
        return f"{self.kind} {self.name}"

    @property
    def parent_label(self) -> str:
        """The label of the object that it belongs to; an empty string if it has none."""
        if self._column or self.entry.kind == "DEFAULT":
            return f"column {self.name}"
        return self.parent.label if self.parent else ""

    @property
    def _column(self) -> list[str]:
        """The table and the column of an entry about a column; otherwise empty."""
        kind, _, name = self.entry.name.partition(" ")
        return identifiers(name) if kind == "COLUMN" and self.entry.kind in _ABOUT else []


def objects_of(entries: Iterable[Entry], *, migrating_role: str) -> Iterator[SchemaObject]:
    """Yield the objects of an archive.

    Args:
        migrating_role: The role that runs the migrations, which becomes `MIGRATING_ROLE`; an empty
            string to keep all names of roles.
    """
    by_number = {entry.number: entry for entry in entries}
    unify = _role_unifier(migrating_role)
    owners = {migrating_role: MIGRATING_ROLE}
    for entry in by_number.values():
        place = _place_of(entry, by_number)
        if place.is_ignored:
            continue
        definition = _definition(entry, unify)
        if not definition:
            continue
        found = SchemaObject(
            kind=place.kind,
            name=place.name,
            definition=definition,
            owner="" if place.is_part else owners.get(entry.owner, entry.owner),
            parent=place.parent_label,
        )
        yield from _table_objects(found) if entry.kind in _TABLES else (found,)


def places_of(entries: Iterable[Entry]) -> list[Place]:
    """Return the entries that are objects, each with its place."""
    by_number = {entry.number: entry for entry in entries}
    places = (_place_of(entry, by_number) for entry in by_number.values())
    return [place for place in places if not place.is_ignored]


def privilege_statements(entry: Entry, migrating_role: str) -> list[str]:
    """Return the statements of an entry about privileges, in an order that does not vary.

    Those that give the migrating role its own privileges are left out; elsewhere, its name is
    `MIGRATING_ROLE`.
    """
    return _privilege_statements(entry, _role_unifier(migrating_role))


def unified_roles(sql: str, migrating_role: str) -> str:
    """Return a statement in which the name of the migrating role is `MIGRATING_ROLE`."""
    return _role_unifier(migrating_role)(sql)


def _with_arguments(entry: Entry) -> str:
    """Return the name of a function, of whose name the types of its arguments are a part."""
    name, parenthesis, arguments = entry.name.partition("(")
    return f"{shown(entry.schema, name)}{parenthesis}{arguments}"


def _place_of(entry: Entry, by_number: dict[int, Entry]) -> Place:
    needed = [by_number[number] for number in sorted(entry.needs) if number in by_number]
    if entry.kind in _ABOUT:
        candidates = [other for other in needed if other.kind not in _ABOUT]
    else:
        kinds = _PARENTS.get(entry.kind, frozenset())
        candidates = [other for other in needed if other.kind in kinds]
    # A foreign key also needs the table that it references, and that table's primary key.
    parent = max(candidates, key=lambda other: _fits(entry, other), default=None)
    if parent is None:
        return Place(entry=entry)
    return Place(entry=entry, parent=_place_of(parent, by_number))


def _fits(entry: Entry, parent: Entry) -> tuple[bool, int]:
    """Return how well a candidate fits as the parent; its name begins that of its part."""
    same_schema = entry.schema == parent.schema
    begins = f"{entry.name} ".startswith(f"{parent.name} ")
    return same_schema and begins, len(parent.name)


def _definition(entry: Entry, unify: Callable[[str], str]) -> str:
    text = entry.definition.strip()
    if entry.kind in PRIVILEGES:
        return "\n".join(_privilege_statements(entry, unify))
    if entry.kind == "POLICY":
        return unify(text)
    if entry.kind in _CONSTRAINTS:
        return _ADD_CONSTRAINT.sub("", text).removesuffix(";")
    access_method = entry.access_method
    return f"{text}\nUSING {access_method}" if access_method not in ("", "heap") else text


def _privilege_statements(entry: Entry, unify: Callable[[str], str]) -> list[str]:
    statements = split(unify(entry.definition.strip()), ";")
    if entry.server_major < _WITH_MAINTAIN:
        # A newer pg_dump lists them, because ALL would mean more where they are restored.
        statements = [_ALL_UNTIL_16.sub(r"\1 ALL ", statement) for statement in statements]
    # pg_dump's order is that in which they were granted.
    statements.sort(key=lambda s: (s[:6] != "REVOKE", s))
    return [f"{s};" for s in statements if not _OWN_PRIVILEGE.fullmatch(s)]


def _role_unifier(role: str) -> Callable[[str], str]:
    """Return a function that replaces a role's name in statements about privileges."""
    if not role:
        return lambda sql: sql
    quoted = '"' + role.replace('"', '""') + '"'
    names = f"(?:{re.escape(role)}|{re.escape(quoted)})"
    pattern = re.compile(rf"\b(TO|FROM|FOR ROLE|GRANTED BY) {names}(?=[\s;,])")
    return lambda sql: pattern.sub(rf"\1 {MIGRATING_ROLE}", sql)


def _table_objects(table: SchemaObject) -> Iterator[SchemaObject]:
    """Yield a table, its columns and the constraints in its definition, as separate objects.

    So the order of the columns is not compared.
    """
    create, *others = split(table.definition, ";")
    head, body, tail = parenthesized(create)
    parts: dict[str, SchemaObject] = {}
    for text in split(body, ","):
        part = _part_of(table, text)
        parts[part.label] = part
    kept = []
    for statement in others:
        if statement.endswith(NO_OPTION):
            continue
        column = _altered_column(statement)
        label = f"column {table.name}.{shown(column)}"
        if column and label in parts:
            altered = f"{parts[label].definition}\n{statement}"
            parts[label] = replace(parts[label], definition=altered)
        else:
            kept.append(statement)
    definition = ";\n".join([f"{head}(...){tail}", *kept])
    yield replace(table, definition=definition)
    yield from parts.values()


def _part_of(table: SchemaObject, text: str) -> SchemaObject:
    text = _NOT_NULL_NAME.sub("", text)
    if text.startswith("CONSTRAINT "):
        kind, name = "constraint", first_identifier(text.removeprefix("CONSTRAINT "))
    elif text.startswith("NOT NULL "):
        kind, name = "constraint", text
    else:
        kind, name = "column", first_identifier(text)
    return SchemaObject(
        kind=kind, name=f"{table.name}.{shown(name)}", definition=text, parent=table.label
    )


def _altered_column(statement: str) -> str:
    """Return the column that `ALTER TABLE ... ALTER COLUMN` alters; otherwise an empty string."""
    words = split(statement, " ")
    alter = [i for i, word in enumerate(words[:6]) if word == "COLUMN" and words[i - 1] == "ALTER"]
    return first_identifier(words[alter[0] + 1]) if alter else ""
