"""What `env.export` prints, and that a shell reads the same values from it."""

import json
import subprocess
from pathlib import Path

import pytest

from huleedu_tasks.app import App
from huleedu_tasks.env.export import direnv_text, exported, own_command, shell_text

PASSWORD = "p'a$s \"w\\`1"


def app_of(root: Path, *services: dict[str, object]) -> App:
    """Return the `App` of a registry, with a login whose password a shell could misread."""
    (root / "services.json").write_text(json.dumps({"services": services}))
    (root / ".env").write_text("HULEEDU_DB_USER=u\n")
    return App(start=root)


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HULEEDU_DB_PASSWORD", PASSWORD)


def test_a_shell_reads_the_same_values(tmp_path: Path) -> None:
    parts = {"A_PORT": "{port}", "A_PASSWORD": "{password}", "A_MODE": "fast"}
    app = app_of(tmp_path, {"name": "a", "port": 20001, "environment": parts})
    services = app.services(None)
    variables, several = exported(services, app.urls(services), "development")
    assert several == []
    assert variables.keys() == {
        *("A_SERVICE_DATABASE_URL", "A_PORT", "A_PASSWORD"),
        *("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD"),
    }
    script = f"{shell_text(variables)}\nprintf '%s' \"$A_PORT $PGPASSWORD $A_PASSWORD\""
    read = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    assert read.stdout == f"20001 {PASSWORD} {PASSWORD}"


def test_a_variable_that_services_share_with_different_values_is_named(tmp_path: Path) -> None:
    shared = {"alembic_url_variable": "DATABASE_URL"}
    entries = [{"name": name, "port": 20001 + n, **shared} for n, name in enumerate("ab")]
    app = app_of(tmp_path, *entries)
    services = app.services(None)
    variables, several = exported(services, app.urls(services), "development")
    assert variables.keys() == {"A_SERVICE_DATABASE_URL", "B_SERVICE_DATABASE_URL"}
    assert several == ["DATABASE_URL"]
    one = app.services(["a"])
    assert "DATABASE_URL" in exported(one, app.urls(one), "development")[0]


def test_an_envrc_runs_the_same_program_again(tmp_path: Path) -> None:
    command = own_command([str(tmp_path / "a b/invoke"), "env.export"], "env.export")
    assert direnv_text(command, [tmp_path / "services.json"], ["a"]).splitlines() == [
        f"watch_file {tmp_path / 'services.json'}",
        f"variables=\"$('{tmp_path / 'a b/invoke'}' env.export --service a)\" || exit 1",
        'eval "$variables"',
    ]
    (tmp_path / ".envrc").write_text(direnv_text("false", [tmp_path / "services.json"], []))
    # As direnv loads it.
    loaded = subprocess.run(
        ["bash", "-c", "watch_file() { :; }; . ./.envrc; true"], cwd=tmp_path, check=False
    )
    assert loaded.returncode == 1
    assert own_command(["/x/invoke/__main__.py"], "own.env.export").endswith(
        " -m invoke own.env.export"
    )
