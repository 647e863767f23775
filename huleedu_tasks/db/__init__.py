"""The flows of the `db.*` tasks: the databases of development and testing."""
