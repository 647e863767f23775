"""Reads a service's Alembic history from its files, and runs Alembic in child processes."""
