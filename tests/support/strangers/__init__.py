"""Generates monorepos in which no two services follow the same convention.

`python -m tests.support.strangers NEW_DIRECTORY` writes thirteen services, for manual tests.
"""
