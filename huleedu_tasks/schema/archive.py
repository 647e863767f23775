"""Read the table of contents of an archive that `pg_dump --format=custom` wrote.

Each string in it is preceded by its length, so that a name or a definition may contain anything
(PostgreSQL, `pg_backup_archiver.c`, ReadHead and ReadToc). A text dump has no such boundaries.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MAGIC = b"PGDMP"
# Written by pg_dump 14 to 18.
_OLDEST, _WITH_COMPRESSION_NAME, _WITH_RELKIND, _NEWEST = (1, 14), (1, 15), (1, 16), (1, 16)
_CUSTOM_FORMAT = 1
# tm_sec, tm_min, tm_hour, tm_mday, tm_mon, tm_year, tm_isdst
_TIME_FIELDS = 7
_MAJOR = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a table of contents, with empty strings for what it does not have.

    Attributes:
        number: Identifies it in the archive.
        kind: The type of the object, as `pg_restore --list` shows it, for example `FK CONSTRAINT`.
        name: The name of the object, behind that of its table if it belongs to one; arguments of a
            function are part of it.
        definition: The SQL that creates it.
        needs: The numbers of the entries that must be restored before it.
        span: Where the definition is in the archive, in bytes.
        server_major: The major version of the server that pg_dump has read.
    """

    number: int
    kind: str
    schema: str
    name: str
    definition: str
    owner: str
    access_method: str
    needs: frozenset[int]
    span: slice
    server_major: int


# PostgreSQL 15.20 of the Docker image sets this option of a column to a number that differs between
# databases. No other server accepts it.
_COLUMN_VERSION = re.compile(rb"SET \(pg_attver=\d+\)")
NO_OPTION = "RESET (n_distinct)"


# A user mapping is the password of a role on another server.
_USER_MAPPING = "USER MAPPING"
_WITH_OPTIONS = frozenset({"SERVER", "FOREIGN DATA WRAPPER", "FOREIGN TABLE"})
_OPTION = re.compile(rb"""(\w+"? E?')((?:[^']|'')*)(?=')""")
_SECRET_NAME = re.compile(
    rb"pass|pwd|secret|token|credential|(?:access|api|private)_?key", re.IGNORECASE
)
_SECRET_VALUE = re.compile(rb"(?:pass\w*|pwd)\s*=|://[^/@]*:[^/@]*@", re.IGNORECASE)


class ArchiveInvalid(ValueError):
    """The archive cannot be read: it is truncated, or from an unknown version of pg_dump."""


def without_column_versions(archive: bytes) -> bytes:
    """Return an archive in which statements that set a column's version have no effect.

    Their lengths stay the same, because the archive contains them.
    """
    return _COLUMN_VERSION.sub(lambda found: NO_OPTION.encode().ljust(len(found[0])), archive)


def without_secrets(archive: bytes, entries: Iterable[Entry]) -> bytes:
    """Return an archive without user mappings, and with masked passwords in foreign servers.

    The lengths of definitions stay the same, because the archive contains them.

    Args:
        entries: The entries of the archive.
    """
    changed = bytearray(archive)
    for entry in entries:
        if entry.kind == _USER_MAPPING:
            changed[entry.span] = b" " * len(changed[entry.span])
        elif entry.kind in _WITH_OPTIONS:
            changed[entry.span] = _OPTION.sub(_masked, changed[entry.span])
    return bytes(changed)


def _masked(option: re.Match[bytes]) -> bytes:
    name, value = option.groups()
    is_secret = _SECRET_NAME.search(name) or _SECRET_VALUE.search(value)
    return name + (b"*" * len(value) if is_secret else value)


def read_entries(archive: bytes) -> list[Entry]:
    """Return the entries of an archive in pg_dump's order.

    Raises:
        ArchiveInvalid: If the archive cannot be read.
    """
    try:
        return list(_entries(_Reader(archive)))
    except IndexError as error:
        raise ArchiveInvalid("it is truncated") from error


class _Reader:
    """Reads numbers and strings from an archive, one after another."""

    def __init__(self, archive: bytes) -> None:
        self._archive = archive
        self.position = 0
        self.integer_size = 0

    def take(self, size: int) -> bytes:
        taken = self._archive[self.position : self.position + size]
        if len(taken) < size:
            raise IndexError
        self.position += size
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self) -> int:
        negative = self.byte()
        number = int.from_bytes(self.take(self.integer_size), "little")
        return -number if negative else number

    def optional(self) -> str | None:
        """Return a string, or None for C's null pointer, whose length is -1."""
        length = self.integer()
        # A database with the encoding SQL_ASCII may contain any bytes.
        return None if length < 0 else self.take(length).decode(errors="backslashreplace")

    def string(self) -> str:
        return self.optional() or ""

    def strings(self) -> Iterator[str]:
        """Yield strings up to the null pointer that ends a list."""
        while (found := self.optional()) is not None:
            yield found


def _entries(reader: _Reader) -> Iterator[Entry]:
    head = _read_head(reader)
    for _ in range(reader.integer()):
        yield _read_entry(reader, head)
        # Where its rows are, which a dump of a schema does not have.
        reader.take(1 + head.offset_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What an archive says about itself.

    Attributes:
        version: The version of the format.
        offset_size: The size of an offset in bytes.
        server_major: The major version of the server.
    """

    version: tuple[int, int]
    offset_size: int
    server_major: int


def _read_head(reader: _Reader) -> _Head:
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise ArchiveInvalid("it is not an archive of pg_dump")
    version = (reader.byte(), reader.byte())
    reader.byte()
    if not _OLDEST <= version <= _NEWEST:
        raise ArchiveInvalid(f"its format {version[0]}.{version[1]} is not known")
    reader.integer_size = reader.byte()
    offset_size = reader.byte()
    if reader.byte() != _CUSTOM_FORMAT:
        raise ArchiveInvalid("its format is not 'custom'")
    if version >= _WITH_COMPRESSION_NAME:
        reader.byte()
    else:
        reader.integer()
    for _ in range(_TIME_FIELDS):
        reader.integer()
    _database, server, _program = reader.string(), reader.string(), reader.string()
    if not (major := _MAJOR.match(server)):
        raise ArchiveInvalid(f"the version {server!r} of its server is not known")
    return _Head(version=version, offset_size=offset_size, server_major=int(major[0]))


def _read_entry(reader: _Reader, head: _Head) -> Entry:
    number = reader.integer()
    # Whether it has rows, and the OIDs of its catalog and of the object.
    _, _, _ = reader.integer(), reader.string(), reader.string()
    name, kind = reader.string(), reader.string()
    _section = reader.integer()
    # Behind its length.
    begin = reader.position + 1 + reader.integer_size
    definition, span = reader.string(), slice(begin, reader.position)
    _drop, _copy = reader.string(), reader.string()
    schema, _tablespace, access_method = reader.string(), reader.string(), reader.string()
    if head.version >= _WITH_RELKIND:
        reader.integer()
    owner, _with_oids = reader.string(), reader.string()
    return Entry(
        number=number,
        kind=kind,
        schema=schema,
        name=name,
        definition=definition,
        owner=owner,
        access_method=access_method,
        needs=frozenset(map(int, reader.strings())),
        span=span,
        server_major=head.server_major,
    )
