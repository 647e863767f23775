"""The refusal to start on native Windows."""

import sys

from huleedu_tasks.errors import ConfigurationError


def require_posix(platform: str = sys.platform) -> None:
    """End the process with a message on native Windows.

    This package uses POSIX signals, sockets, file locks and fork; most of its modules cannot be
    imported on Windows.

    Args:
        platform: The value of `sys.platform`.

    Raises:
        SystemExit: With exit code 2, on Windows.
    """
    if platform != "win32":
        return
    from huleedu_tasks.screen.console import Screen

    error = ConfigurationError(
        "Windows is not supported, only Linux, macOS and WSL 2.",
        code="windows-unsupported",
        hint="Install WSL 2 (`wsl --install`), and run the same command in its shell.",
    )
    Screen().error("huleedu-tasks", error)
    raise SystemExit(int(error.exit_code))
