"""The unit tests: values in, values out, and nothing that is not in a temporary directory."""

from hypothesis import HealthCheck, settings

# The same examples in each run, and no directory with those of the run before.
settings.register_profile(
    "unit",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("unit")
