"""`services.check`: compares registry, compose files, code and revisions."""
