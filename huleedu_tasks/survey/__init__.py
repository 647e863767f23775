"""What a monorepo says of itself: its folders, sources and compose files, read and compared."""
