"""What is to be done with which database: the registry, the settings, the URLs."""
