"""The composition root: settings, registry and redaction from the start directory."""

import json
from pathlib import Path

import pytest

from huleedu_tasks.app import App
from huleedu_tasks.errors import ConfigurationError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    services = [{"name": "a", "port": 1}, {"name": "b", "port": 2}, {"name": "c", "port": 3}]
    (tmp_path / "services.json").write_text(json.dumps({"services": services}))
    return tmp_path


def test_one_invalid_override_leaves_no_other_password_unmasked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SERVICE_DATABASE_URL", "no url")
    monkeypatch.setenv("B_SERVICE_DATABASE_URL", "postgresql://u:own%20password@h/d")
    monkeypatch.setenv("HULEEDU_DB_PASSWORD", "hunter2")
    app = App(start=root)
    assert app.redact("own password, own%20password, hunter2") == "***, ***, ***"


def test_without_a_registry_messages_are_unchanged(tmp_path: Path) -> None:
    assert App(start=tmp_path).redact("text") == "text"


def test_the_registry_of_the_setting_is_used_or_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HULEEDU_REGISTRY", str(root / "services.json"))
    assert [service.name for service in App(start=Path("/")).services(None)] == ["a", "b", "c"]
    monkeypatch.setenv("HULEEDU_REGISTRY", str(root / "nowhere.json"))
    with pytest.raises(ConfigurationError, match="HULEEDU_REGISTRY names"):
        _ = App(start=root).registry


def test_env_is_read_beside_the_registry_and_not_in_the_working_directory(root: Path) -> None:
    (root / ".env").write_text("HULEEDU_DB_USER=beside\n")
    below = root / "services"
    below.mkdir()
    (below / ".env").write_text("HULEEDU_DB_USER=here\n")
    assert App(start=below).settings.get("HULEEDU_DB_USER") == "beside"


def test_a_message_names_each_setting_as_it_is_set(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = {"prefix": "ACME", "services": [{"name": "a", "port": 1}]}
    (root / "services.json").write_text(json.dumps(registry))
    (root / ".env").write_text("ACME_DB_USER=own\nHULEEDU_DB_USER=unused\nHULEEDU_JOBS=2\n")
    monkeypatch.setenv("HULEEDU_ENVIRONMENT", "production")
    app = App(start=root)
    text = "HULEEDU_ENVIRONMENT, HULEEDU_JOBS, HULEEDU_DB_USER, HULEEDU_PROVIDER=embedded"
    assert app.own_words(text) == (
        "HULEEDU_ENVIRONMENT, HULEEDU_JOBS, ACME_DB_USER, ACME_PROVIDER=embedded"
    )


@pytest.mark.parametrize(
    ("stated", "written", "expected"),
    [
        ({}, "", ("", "", "")),
        ({}, "testing", ("", "", "")),
        ({"HULEEDU_ENVIRONMENT": "testing"}, "testing", ("", "", "")),
        (
            {"HULEEDU_ENVIRONMENT": "testing"},
            "",
            ("HULEEDU_ENVIRONMENT=testing ", "", "HULEEDU_ENVIRONMENT=testing "),
        ),
        (
            {"ACME_ENVIRONMENT": "development"},
            "testing",
            ("ACME_ENVIRONMENT=development ", "", "ACME_ENVIRONMENT=development "),
        ),
        (
            {"HULEEDU_ENVIRONMENT": "production"},
            "",
            ("", "HULEEDU_ENVIRONMENT=production ", ""),
        ),
        ({"HULEEDU_ENVIRONMENT": "unknown"}, "", ("", "", "")),
        ({"HULEEDU_PROVIDER": "embedded"}, "", ("", "", "")),
        ({"HULEEDU_INSTANCE": "b"}, "", ("HULEEDU_INSTANCE=b ", "", "HULEEDU_INSTANCE=b ")),
    ],
    ids=str,
)
def test_a_shown_command_has_the_environment_of_this_process_before_it(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    stated: dict[str, str],
    written: str,
    expected: tuple[str, str, str],
) -> None:
    registry = {"prefix": "ACME", "services": [{"name": "a", "port": 1}]}
    (root / "services.json").write_text(json.dumps(registry))
    (root / ".env").write_text(f"HULEEDU_ENVIRONMENT={written}\n" if written else "")
    for name, value in stated.items():
        monkeypatch.setenv(name, value)
    app = App(start=root)
    assert tuple(map(app.assignments, ("db", "prod", "services"))) == expected
