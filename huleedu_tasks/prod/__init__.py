"""The flows of the `prod.*` tasks, for the databases of staging and production."""
