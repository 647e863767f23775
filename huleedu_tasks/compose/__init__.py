"""All knowledge of Docker Compose and of the Docker Engine."""
