"""The configuration: registry, settings, database URLs and secrets."""
