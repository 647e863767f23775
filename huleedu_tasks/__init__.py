"""Invoke tasks for a monorepo with one PostgreSQL database per service."""

__version__ = "0.1.0"
