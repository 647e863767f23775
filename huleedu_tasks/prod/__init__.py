"""What the `prod.*` tasks do: the databases of staging and production."""
