"""Providers, the sources of development servers: one protocol and its implementations."""
