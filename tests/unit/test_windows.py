"""Native Windows gets a message instead of a traceback."""

import subprocess
import sys

import pytest

from huleedu_tasks.cli.windows import require_posix
from tests.support.monorepo import clean_environment


@pytest.mark.parametrize("module", ["huleedu_tasks.cli", "huleedu_tasks.cli.program"])
def test_the_tasks_and_the_program_refuse_windows(module: str) -> None:
    # Invoke itself runs on Windows, and is imported before.
    script = f"import sys, invoke.program; sys.platform = 'win32'; import {module}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "huleedu-tasks: Windows is not supported, only Linux, macOS and WSL 2. "
        "[windows-unsupported]\n"
        "What to do: Install WSL 2 (`wsl --install`), and run the same command in its shell.\n"
    )


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_other_platforms_are_supported(platform: str) -> None:
    require_posix(platform)
