"""Writes the thirteen strangers into a new directory, to try things by hand."""

import sys
from pathlib import Path

from tests.support.strangers.writing import thirteen_strangers

if __name__ == "__main__":
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit("Usage: python -m tests.support.strangers NEW_FOLDER")
    thirteen_strangers(Path(sys.argv[1]))
