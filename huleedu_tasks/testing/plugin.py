"""The entry point of the plugin: options, hooks and fixtures."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from huleedu_tasks.testing.fixtures import (
    FRESH,
    OPTION,
    SESSION,
    databases,
    declared,
    huleedu_databases,
)
from huleedu_tasks.testing.totals import Totals

__all__ = ["databases", "huleedu_databases"]

_TOTALS: pytest.StashKey[Totals] = pytest.StashKey()
_OUTPUT = "huleedu_databases"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugin."""
    group = parser.getgroup("huleedu", "databases of services")
    group.addoption(
        FRESH,
        action="store_true",
        help="migrate and seed the databases of services even if a valid template exists",
    )
    parser.addini(
        OPTION,
        type="args",
        default=[],
        help="services whose databases the fixture huleedu_databases has; all if empty",
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name the provider and its servers, if a `conftest.py` declares databases."""
    if not (declared or config.getini(OPTION)):
        return []
    from huleedu_tasks.app import App
    from huleedu_tasks.errors import HuleEduError

    app = App(start=config.rootpath)
    try:
        provider = app.provider
        reason = app.own_words(provider.reason)
        found = f"{provider.name} ({reason}); {app.registry.source}"
        if app.instance:
            found += f"; instance {app.instance.name}: {app.own_words(app.instance.reason)}"
    except HuleEduError as error:
        # The first test that needs a database fails with it.
        found = app.own_words(app.redact(str(error)))
    return [f"service databases: {found}"]


# After Ctrl-C, pytest tears the fixtures down in this hook.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Drop the databases that still exist."""
    own = session.config.stash.get(SESSION, None)
    if own is None:
        return
    own.close()
    totals = asdict(own.totals)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_OUTPUT] = totals
    else:
        _totals(session.config).add(totals)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the totals of an xdist worker that has ended."""
    output: Mapping[str, Any] = getattr(node, "workeroutput", {})
    if _OUTPUT in output:
        _totals(node.config).add(output[_OUTPUT])


def pytest_terminal_summary(
    terminalreporter: "pytest.TerminalReporter", config: pytest.Config
) -> None:
    """Show how many databases were created, and from which templates."""
    for line in _totals(config).lines:
        terminalreporter.write_line(f"service databases: {line}")


def _totals(config: pytest.Config) -> Totals:
    return config.stash.setdefault(_TOTALS, Totals())
