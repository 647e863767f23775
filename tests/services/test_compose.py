"""`docker-compose.dev.yml` together with the file of the databases, as Compose reads them."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker import why_no_docker
from tests.support.monorepo import PROJECT, clean_environment
from tests.support.running import APP, DIRECTORY

FILES = ("docker-compose.infrastructure.yml", "docker-compose.dev.yml")
SERVICE = "class_management_service"
ENV_FILE = "HULEEDU_ENVIRONMENT=development\nHULEEDU_DB_USER=me\nHULEEDU_DB_PASSWORD='a$b c'\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory with both files and a `.env`."""
    if reason := why_no_docker():
        pytest.skip(reason)
    for name in FILES:
        shutil.copy(PROJECT / name, tmp_path)
    (tmp_path / ".env").write_text(ENV_FILE)
    return tmp_path


def resolved(root: Path, **variables: str) -> dict[str, Any]:
    """Return the compose service as Compose resolves it."""
    files = [word for name in FILES for word in ("-f", name)]
    done = subprocess.run(
        ["docker", "compose", *files, "config", "--format", "json"],
        cwd=root,
        env={**clean_environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    assert "class_management_db" in services
    return services[SERVICE]


def test_the_source_is_mounted_where_the_server_reloads_it(root: Path) -> None:
    service = resolved(root, CLASS_MANAGEMENT_SERVICE_PORT="8123")
    (mount,) = service["volumes"]
    assert (mount["source"], mount["target"]) == (str(root / "services"), "/app/services")
    assert service["working_dir"] == "/app"
    assert service["command"][:5] == ["uvicorn", APP, "--port", "8123", "--reload"]
    assert DIRECTORY in service["command"]


def test_a_variable_of_the_shell_wins_over_the_env_file(root: Path) -> None:
    host = {"HULEEDU_PROD_DB_HOST": "db.example.com"}
    variables = resolved(root, HULEEDU_ENVIRONMENT="production", **host)["environment"]
    # `config` doubles a dollar sign.
    assert variables["HULEEDU_DB_PASSWORD"] == "a$$b c"
    assert variables["HULEEDU_ENVIRONMENT"] == "production"
    assert variables["HULEEDU_PROD_DB_HOST"] == "db.example.com"
    assert variables["HULEEDU_STAGING_DB_HOST"] is None
