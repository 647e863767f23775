"""A service's Alembic history: read from its files, and run in a process of its own."""
