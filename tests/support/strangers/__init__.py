"""Monorepos as they are found: no two of their services follow the same convention.

`python -m tests.support.strangers NEW_FOLDER` writes thirteen services, to try things by hand.
"""
