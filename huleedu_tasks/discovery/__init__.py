"""What `services.discover` does: proposes a registry from the files of a repository."""
