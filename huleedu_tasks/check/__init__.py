"""What `services.check` does: compares registry, compose files, code and revisions."""
