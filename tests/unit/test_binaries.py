"""PostgreSQL's programs are found with their version."""

import subprocess
from pathlib import Path

import pytest

from huleedu_tasks.postgres.binaries import find_binaries
from tests.support.values import settings

SCRIPT = "#!/bin/sh\nexec echo 'PostgreSQL: postgres, version {}'\n"


def test_the_version_is_the_one_that_the_program_prints() -> None:
    found = find_binaries(settings(), ())
    command = [str(found.program("postgres")), "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.startswith(f"postgres (PostgreSQL) {found.version}")
    assert printed[len(f"postgres (PostgreSQL) {found.version}")].isspace()


@pytest.mark.parametrize("version", ["17.2", "18beta1"])
def test_a_script_that_starts_the_program_is_asked_for_its_version(
    tmp_path: Path, version: str
) -> None:
    for name in ("postgres", "initdb"):
        path = tmp_path / name
        path.write_text(SCRIPT.format(version))
        path.chmod(0o755)
    assert find_binaries(
        settings(HULEEDU_POSTGRES_BIN=str(tmp_path)), ()
    ).version == version.removesuffix("beta1")
