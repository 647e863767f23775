"""A service's seeds, applied in one transaction by a process of their own."""
