"""The flows in this process: real settings, provider and servers, without the command line."""

import atexit
import subprocess
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks.app import App
from huleedu_tasks.db.development import Development
from tests.support.monorepo import Monorepo, new_monorepo


def app_of(monorepo: Monorepo, **variables: str) -> App:
    """Return the `App` of a command in a monorepo, with these environment variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**monorepo.environment, **variables}.items():
            patch.setenv(name, value)
        app = App(start=monorepo.root)
        # Read now, while the variables are set; an App reads everything once.
        _ = app.registry, app.settings, app.state, app.provider
    return app


def development_of(app: App, *names: str, **stated: Any) -> Development:
    """Return the development flows over the named services, or all."""
    return Development(
        settings=app.settings,
        registry=app.registry,
        provider=app.provider,
        services=app.services(names),
        state=app.state,
        jobs=2,
        **stated,
    )


def without_initdb(monorepo: Monorepo, *, of_tests: bool = False) -> Monorepo:
    """Copy the prepared data directory of another monorepo, to save an initdb.

    Args:
        of_tests: Whether it is for the servers of the environment testing.
    """
    state = monorepo.state / "testing" if of_tests else monorepo.state
    directory = state / _template().relative_to(_template().parents[2])
    directory.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", _template(), directory], check=True)
    return monorepo


@cache
def _template() -> Path:
    stack = ExitStack()
    atexit.register(stack.close)
    monorepo = stack.enter_context(new_monorepo(["any"]))
    assert monorepo.invoke("db.up").code == 0
    monorepo.stop_servers()
    (directory,) = monorepo.state.glob("embedded/postgresql-*/.template")
    return directory
