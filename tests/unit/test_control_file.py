"""The system identifier in a control file is replaced, and its checksum with it."""

import sys

import pytest

from huleedu_tasks.postgres.control_file import new_identifier, with_identifier

IDENTIFIER = 7_411_223_344_556_677_889
# The CRC-32C of the bytes from 0 to 31 (RFC 3720, B.4).
FIELDS = bytes(range(32))
CHECKSUM = 0x46DD794E.to_bytes(4, sys.byteorder)


def test_only_identifier_and_checksum_are_replaced() -> None:
    changed = with_identifier(FIELDS + CHECKSUM + bytes(8156), IDENTIFIER)
    assert changed[:8] == IDENTIFIER.to_bytes(8, sys.byteorder)
    assert changed[8:-4] == FIELDS[8:]
    assert changed[-4:] != CHECKSUM
    own = int.from_bytes(FIELDS[:8], sys.byteorder)
    assert with_identifier(changed, own) == FIELDS + CHECKSUM


def test_a_control_file_without_a_valid_checksum_is_refused() -> None:
    with pytest.raises(ValueError, match="checksum"):
        with_identifier(FIELDS + b"\xff" * 8160, IDENTIFIER)


def test_identifiers_differ() -> None:
    assert new_identifier() != new_identifier()
