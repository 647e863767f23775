"""Expected errors, as pytest reports them."""

import pytest

from huleedu_tasks.errors import INVOKE, HuleEduError


def failure(error: HuleEduError, *, pytrace: bool = False) -> BaseException:
    """Return an error as a failure of the test, to be raised.

    Args:
        pytrace: Whether pytest shows the line of the test.
    """
    return pytest.fail.Exception(error_text(error), pytrace=pytrace)


def error_text(error: HuleEduError) -> str:
    """Return an error for the report of pytest: cause with its code, findings, and next step.

    Commands are those of `huleedu`, which needs no `tasks.py`.
    """
    lines = [
        f"{error} [{error.code}]" if error.code else str(error),
        *(f"  - {finding}" for finding in error.findings),
        error.output.rstrip(),
        f"What to do: {error.hint}" if error.hint else "",
    ]
    return INVOKE.sub("`huleedu ", "\n".join(filter(None, lines)))
