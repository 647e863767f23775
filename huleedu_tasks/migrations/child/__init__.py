"""Modules that run in the service's interpreter; loaded by path, without this package."""
