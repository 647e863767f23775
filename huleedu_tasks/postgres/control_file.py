"""Gives a copy of a stopped data directory a system identifier of its own.

`pg_createsubscriber` of PostgreSQL does the same: it writes another identifier and the checksum
to `pg_control`, and runs `pg_resetwal`, which verifies both.
"""

import secrets
import sys
import time

# The identifier is the first field; the checksum is the last one, within the bytes of a sector.
_IDENTIFIER_SIZE = 8
_CHECKSUM_SIZE = 4
_LARGEST = 512
_CASTAGNOLI = 0x82F63B78
_ALL_BITS = 0xFFFFFFFF


def new_identifier() -> int:
    """Return a system identifier: as of `initdb`, the time in its upper half."""
    return int(time.time()) << 32 | secrets.randbits(32)


def with_identifier(control: bytes, identifier: int) -> bytes:
    """Return the fields of a control file with another system identifier.

    Args:
        control: The content of `global/pg_control`.

    Raises:
        ValueError: If no checksum is found in it.
    """
    size = _size_before_checksum(control)
    fields = identifier.to_bytes(_IDENTIFIER_SIZE, sys.byteorder) + control[_IDENTIFIER_SIZE:size]
    return fields + _checksum(fields).to_bytes(_CHECKSUM_SIZE, sys.byteorder)


def _size_before_checksum(control: bytes) -> int:
    """Return the size of all fields before the checksum, which differs between versions."""
    for size in range(_IDENTIFIER_SIZE, _LARGEST, _CHECKSUM_SIZE):
        stored = int.from_bytes(control[size : size + _CHECKSUM_SIZE], sys.byteorder)
        if stored == _checksum(control[:size]):
            return size
    raise ValueError("the control file has no valid checksum")


def _checksum(content: bytes) -> int:
    """Return the CRC-32C of bytes."""
    remainder = _ALL_BITS
    for byte in content:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (_CASTAGNOLI if remainder & 1 else 0)
    return remainder ^ _ALL_BITS
