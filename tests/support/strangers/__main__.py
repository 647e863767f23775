"""Writes the thirteen services into a new directory, for manual tests."""

import sys
from pathlib import Path

from tests.support.strangers.writing import thirteen_strangers

if __name__ == "__main__":
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit("Usage: python -m tests.support.strangers NEW_DIRECTORY")
    thirteen_strangers(Path(sys.argv[1]))
