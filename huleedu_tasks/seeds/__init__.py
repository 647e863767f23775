"""A service's seeds, applied in one transaction by a child process."""
