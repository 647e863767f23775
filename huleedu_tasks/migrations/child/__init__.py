"""What runs in the service's own interpreter; loaded by path, without this package."""
