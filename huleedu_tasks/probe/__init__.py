"""Asks each service's own `config.py` and `env.py` which database they connect to."""
