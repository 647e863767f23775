"""The unit tests: pure functions, and files in temporary directories."""

from hypothesis import HealthCheck, settings

# The same examples in every run, without a database of earlier examples.
settings.register_profile(
    "unit",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("unit")
