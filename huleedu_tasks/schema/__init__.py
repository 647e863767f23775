"""A database's schema as named objects: dump it, compare it."""
