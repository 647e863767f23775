"""What `env.init` does: writes and completes a developer's `.env`."""
