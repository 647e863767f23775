"""Runs each service's `config.py` and `env.py` to determine which database they connect to."""
