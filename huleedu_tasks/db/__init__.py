"""What the `db.*` tasks do: the databases of development and testing."""
