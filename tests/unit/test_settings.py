"""Settings: precedence, parsing of `.env`, and invalid values."""

from collections.abc import Callable
from pathlib import Path

import pytest

from huleedu_tasks.config.setting_types import AnySetting
from huleedu_tasks.config.settings import SETTINGS, Environment, ProviderName, Settings
from huleedu_tasks.config.urls import resolve
from huleedu_tasks.errors import ConfigurationError, ExitCode
from tests.support.values import service

Load = Callable[..., Settings]
OVERRIDE = "ORDERS_SERVICE_DATABASE_URL"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load settings from the content of a `.env` and variables of the process."""

    def load_settings(text: str | bytes = "", **variables: str) -> Settings:
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / ".env").write_bytes(content)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Settings.load(tmp_path)

    return load_settings


def failure(load: Load, text: str | bytes = "", **variables: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(text, **variables)
    assert caught.value.exit_code is ExitCode.USAGE
    return caught.value


def findings(load: Load, text: str | bytes = "", **variables: str) -> list[str]:
    return [str(finding) for finding in failure(load, text, **variables).findings]


def test_the_precedence_from_defaults_to_the_override_in_the_environment(load: Load) -> None:
    """Each step takes precedence over all before it."""

    def url() -> str:
        return resolve(service(port=5433), settings).reveal()

    settings = load()
    with pytest.raises(ConfigurationError) as caught:
        url()
    missing = ["HULEEDU_DB_USER", "HULEEDU_DB_PASSWORD"]
    assert [finding.place for finding in caught.value.findings] == missing
    assert all(name in caught.value.message for name in missing)

    env_file = "HULEEDU_DB_USER=file\nHULEEDU_DB_PASSWORD=file\n"
    settings = load(env_file)
    assert url() == "postgresql+asyncpg://file:file@localhost:5433/huleedu_orders"

    settings = load(env_file, HULEEDU_DB_USER="process")
    assert url() == "postgresql+asyncpg://process:file@localhost:5433/huleedu_orders"

    settings = load(env_file, HULEEDU_ENVIRONMENT="testing")
    assert url() == "postgresql+asyncpg://process:file@localhost:5433/huleedu_orders_test"

    settings = load(env_file, HULEEDU_ENVIRONMENT="production")
    with pytest.raises(ConfigurationError) as caught:
        url()
    missing = ["HULEEDU_PROD_DB_HOST", "HULEEDU_PROD_DB_PASSWORD"]
    assert [finding.place for finding in caught.value.findings] == missing

    env_file += "HULEEDU_PROD_DB_HOST=db.example.com\nHULEEDU_PROD_DB_PASSWORD=prod\n"
    settings = load(env_file)
    assert url() == "postgresql+asyncpg://process:prod@db.example.com:5432/huleedu_orders"

    settings = load(env_file, HULEEDU_DB_USER="", HULEEDU_PROD_DB_PORT="6432")
    assert url() == "postgresql+asyncpg://huleedu_user:prod@db.example.com:6432/huleedu_orders"

    settings = load(env_file, HULEEDU_PROD_DB_SSLMODE="require")
    assert url().endswith("@db.example.com:6432/huleedu_orders?ssl=require")

    env_file += "HULEEDU_STAGING_DB_HOST=staging\nHULEEDU_STAGING_DB_PASSWORD=stage\n"
    settings = load(env_file, HULEEDU_ENVIRONMENT="staging")
    assert url() == "postgresql+asyncpg://huleedu_user:stage@staging:5432/huleedu_orders"

    env_file += f"{OVERRIDE}=postgresql+asyncpg://u:file@elsewhere/x\n"
    settings = load(env_file)
    assert url() == "postgresql+asyncpg://u:file@elsewhere/x"

    settings = load(env_file, **{OVERRIDE: "postgresql+asyncpg://u:process@elsewhere/x"})
    assert url() == "postgresql+asyncpg://u:process@elsewhere/x"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("X=plain", "plain"),
        ("export X=exported", "exported"),
        ("  X = spaced out  ", "spaced out"),
        ("X=value # a comment", "value"),
        ("X=no#comment", "no#comment"),
        ("X='a # b'", "a # b"),
        ('X="a # b"', "a # b"),
        ("X=pa$$word$HOME", "pa$$word$HOME"),
        ("X=pa${A B}${", "pa${A B}${"),
        ("X='pa${HOME}'", "pa${HOME}"),
        ("export X = 'pa${HOME}' # why", "pa${HOME}"),
        ("X=\"it is '${GIVEN}'\"", "it is 'seen'"),
        ("GIVEN=file\nX=a${GIVEN}b", "aseenb"),
        ("OWN=own\nX=${OWN}/${OWN}", "own/own"),
        ("OWN=own\nX='${OWN}'", "${OWN}"),
        ("OWN=own\nX=${OWN:-no}${NONE:-yes}${NONE-yes}", "ownyesyes"),
        ("OWN=\nX=${OWN:-empty}${OWN-set}", "empty"),
        ("OWN=own\nX=${OWN:+there}${NONE:+not}", "there"),
        ("OWN=own\nX=${NONE:-${OWN}}!", "own!"),
        ("X=${NONE}${LATER}", ""),
        ("OWN='a${B}'\nX=${OWN}", "a${B}"),
        ('X="pa$HOME"', "pa$HOME"),
        ("X=it's", "it's"),
        ("X='it\\'s'", "it's"),
        ('X="say \\"so\\""', 'say "so"'),
        ("X='back\\slash'", "back\\slash"),
        ("X=a=b==", "a=b=="),
        ("X='first\nsecond'", "first\nsecond"),
        ('X="first\\nsecond"', "first\nsecond"),
        ("X=åäö€", "åäö€"),
        ("X=p@ss#w%rd/1", "p@ss#w%rd/1"),
        ("X=", ""),
        ("X", ""),
        ("X=first\nX=second", "second"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("tag", ["", "\ufeff"], ids=["plain", "BOM"])
def test_a_line_of_env_is_parsed_as_documented(
    load: Load, line: str, value: str, ending: str, tag: str
) -> None:
    text = tag + f"{line}\n# a comment\nY=2\nLATER=3\n".replace("\n", ending)
    settings = load(text, GIVEN="seen")
    assert settings.get("X") == value
    assert settings.get("Y") == "2"


@pytest.mark.parametrize(
    "host",
    [
        "https://db.example.com",
        "db.example.com:5432",
        "[::1]",
        "::1]",
        "1:2:3",
        "db example.com",
        "db.example.com\n",
        " db",
        "db..example.com",
        ".db",
        "-db.example.com",
        "db.example_com",
        "user@db",
        "db/name",
        "10.0.0.256",
        "10.0.1",
        "one,two",
        "a" * 64,
        "db\x1b[2K",
    ],
)
def test_an_invalid_host_is_a_finding(load: Load, host: str) -> None:
    (found,) = failure(load, "", HULEEDU_PROD_DB_HOST=host).findings
    assert (found.place, found.code) == ("HULEEDU_PROD_DB_HOST (environment)", "host-invalid")
    assert "\n" not in found.problem


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "db.example.com",
        "db.example.com.",
        "my_service_db",
        "a_b.svc.cluster.local",
        "xn--bcher-kva.example",
        "10.0.0.255",
        "::1",
        "fe80::1%eth0",
        "/var/run/postgresql",
    ],
)
def test_a_valid_host_is_accepted(load: Load, host: str) -> None:
    assert load("", HULEEDU_PROD_DB_HOST=host).get("HULEEDU_PROD_DB_HOST") == host


def test_a_user_that_ends_with_a_line_break_is_a_finding(load: Load) -> None:
    (found,) = failure(load, "", HULEEDU_DB_USER="app\n").findings
    assert found.code == "setting-line-break"


def test_an_unset_reference_is_a_finding_in_settings_only(load: Load) -> None:
    text = "OTHER=${NONE}\nHULEEDU_DB_PASSWORD=a${NONE}b\nX_DATABASE_URL=${GONE:?}\n"
    found = failure(load, text).findings
    assert [(finding.place, finding.code) for finding in found] == [
        ("HULEEDU_DB_PASSWORD (.env line 2)", "env-reference-unset"),
        ("X_DATABASE_URL (.env line 3)", "env-reference-unset"),
    ]


def test_a_value_has_its_source(load: Load) -> None:
    text = "# Comment\n\nA='one\ntwo'\n\nHULEEDU_DB_USER=x\n"
    settings = load(text, HULEEDU_PROVIDER="embedded")
    sources = {
        name: settings.value(name).source
        for name in ("A", "HULEEDU_DB_USER", "HULEEDU_PROVIDER", "HULEEDU_JOBS")
    }
    assert sources == {
        "A": ".env line 3",
        "HULEEDU_DB_USER": ".env line 6",
        "HULEEDU_PROVIDER": "environment",
        "HULEEDU_JOBS": "not set",
    }
    assert settings.value("HULEEDU_ENVIRONMENT").source == "default"


@pytest.mark.parametrize("line", ["PASSWORD='hunter2", 'PASSWORD="hunter2', "hunter2 word = x"])
def test_a_line_that_cannot_be_read_is_named_and_not_repeated(load: Load, line: str) -> None:
    error = failure(load, f"A=1\n\n{line}\nB=2\n")
    (finding,) = error.findings
    assert finding.place == ".env line 3"
    assert "hunter2" not in f"{error} {error.message} {error.hint} {finding}"


def test_an_env_that_is_not_utf8_is_an_error(load: Load) -> None:
    (finding,) = findings(load, "HULEEDU_DB_PASSWORD=hemlig å".encode("latin-1"))
    assert "is not UTF-8 (byte 27)" in finding
    assert "hemlig" not in finding


def test_without_an_env_file_the_environment_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HULEEDU_DB_USER", "someone")
    assert Settings.load(tmp_path).get("HULEEDU_DB_USER") == "someone"


@pytest.mark.parametrize("stated", ["production", "Production", " PRODUCTION "])
def test_the_environment_is_read_whatever_its_case(load: Load, stated: str) -> None:
    assert load(HULEEDU_ENVIRONMENT=stated).environment is Environment.PRODUCTION


@pytest.mark.parametrize("stated", ["prodution", "prod", "dev", "productio n", " "])
def test_an_unknown_environment_is_an_error_that_lists_the_four(load: Load, stated: str) -> None:
    assert findings(load, HULEEDU_ENVIRONMENT=stated) == [
        f"HULEEDU_ENVIRONMENT (environment): {stated!r} is not one of "
        "development, testing, staging, production"
    ]


def test_only_development_and_testing_are_disposable() -> None:
    disposable = {environment for environment in Environment if environment.is_disposable}
    assert disposable == {Environment.DEVELOPMENT, Environment.TESTING}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: str(setting.name))
def test_an_empty_variable_counts_as_not_set(load: Load, setting: AnySetting) -> None:
    name, default = setting.name, setting.default
    for settings in (load(f"{name}=\n"), load(**{name: ""})):
        assert settings.value(name).text == default
        assert settings.value(name).source in ("default", "not set")


def test_an_empty_variable_of_the_process_hides_the_one_in_env(load: Load) -> None:
    settings = load("HULEEDU_DB_USER=file\n", HULEEDU_DB_USER="")
    assert settings.get("HULEEDU_DB_USER") == settings.variables()["HULEEDU_DB_USER"] == ""


def test_the_path_of_the_registry_is_not_read_from_env(load: Load) -> None:
    assert load("HULEEDU_REGISTRY=other.json\n").get("HULEEDU_REGISTRY") == ""


def test_all_invalid_values_are_reported_at_once(load: Load) -> None:
    text = """\
HULEEDU_PROVIDER=podman
HULEEDU_EMBEDDED_DURABLE=perhaps
HULEEDU_JOBS=0
HULEEDU_START_TIMEOUT=soon
HULEEDU_MIGRATION_TIMEOUT=-1
HULEEDU_PROD_DB_PORT=5_432
HULEEDU_STAGING_DB_PORT=65536
not a line
"""
    found = findings(load, text, HULEEDU_ENVIRONMENT="prodution", HULEEDU_PROD_DB_PORT="٥٤٣٢")
    assert {finding.partition(" is ")[0] for finding in found} == {
        "HULEEDU_ENVIRONMENT (environment): 'prodution'",
        "HULEEDU_PROVIDER (.env line 1): 'podman'",
        "HULEEDU_EMBEDDED_DURABLE (.env line 2): 'perhaps'",
        "HULEEDU_JOBS (.env line 3): '0'",
        "HULEEDU_START_TIMEOUT (.env line 4): 'soon'",
        "HULEEDU_MIGRATION_TIMEOUT (.env line 5): '-1'",
        "HULEEDU_PROD_DB_PORT (environment): '٥٤٣٢'",
        "HULEEDU_STAGING_DB_PORT (.env line 7): '65536'",
        ".env line 8:",
    }


@pytest.mark.parametrize("number", ["four", "1.5", "-1", "0", "nan", " "])
def test_jobs_are_an_integer_of_at_least_one(load: Load, number: str) -> None:
    (finding,) = findings(load, HULEEDU_JOBS=number)
    assert finding.startswith(f"HULEEDU_JOBS (environment): {number!r} is ")


def test_values_have_their_types(load: Load, tmp_path: Path) -> None:
    settings = load(
        HULEEDU_PROVIDER="Existing",
        HULEEDU_JOBS="3",
        HULEEDU_START_TIMEOUT="1.5",
        HULEEDU_MIGRATION_TIMEOUT="20",
        HULEEDU_EMBEDDED_DURABLE="YES",
        HULEEDU_STATE_DIR="state",
        HULEEDU_POSTGRES_BIN="/opt/pg/bin",
    )
    assert settings.provider is ProviderName.EXISTING
    assert (settings.jobs, settings.start_timeout, settings.migration_timeout) == (3, 1.5, 20.0)
    assert settings.embedded_durable
    assert settings.state_directory == tmp_path / "state"
    assert settings.postgres_bin == Path("/opt/pg/bin")


def test_unset_variables_have_their_defaults(load: Load) -> None:
    settings = load()
    assert settings.environment is Environment.DEVELOPMENT
    assert settings.provider is ProviderName.AUTO
    assert settings.jobs >= 1
    assert not settings.embedded_durable
    assert (settings.state_directory, settings.postgres_bin) == (None, None)


def test_passwords_and_overrides_are_shown_masked(load: Load) -> None:
    settings = load(
        f"HULEEDU_DB_PASSWORD=hunter2\n{OVERRIDE}=postgresql://u:hunter2@h/d\n",
        HULEEDU_DB_USER="someone",
    )
    shown = [settings.shown(name) for name in ("HULEEDU_DB_PASSWORD", OVERRIDE, "HULEEDU_DB_USER")]
    assert shown == ["***", "***", "someone"]
    assert "hunter2" in [secret.reveal() for secret in settings.secrets()]


SECRETS = """\
HULEEDU_DB_PASSWORD=development
HULEEDU_PROD_DB_PASSWORD=production
HULEEDU_STAGING_DB_PASSWORD=staging
ACME_PROD_DB_PASSWORD=production
ORDERS_SERVICE_DIRECT_DATABASE_URL=postgresql://u:direct@h/d
ORDERS_SERVICE_DATABASE_URL=postgresql://u:override@h/d
"""


def secrets_in(environment: dict[str, str]) -> set[str]:
    """Return the secrets of `SECRETS` in an environment."""
    words = ("development", "production", "staging", "direct", "override")
    text = " ".join(
        value for name, value in environment.items() if name.endswith(("PASSWORD", "_URL"))
    )
    return {word for word in words if word in text}


def test_children_get_env_under_the_real_environment(load: Load) -> None:
    settings = load("OWN=file\nBOTH=file\n", BOTH="process")
    for child in (settings.service_environment(), settings.compose_environment()):
        assert (child["OWN"], child["BOTH"]) == ("file", "process")
    tool = settings.tool_environment()
    assert ("OWN" in tool, tool["BOTH"]) == (False, "process")


@pytest.mark.parametrize(
    ("environment", "passed"),
    [
        ("development", set()),
        ("testing", set()),
        ("staging", {"staging", "direct"}),
        ("production", {"production", "direct"}),
    ],
)
@pytest.mark.parametrize("exported", [False, True])
def test_a_service_gets_only_the_secrets_of_its_environment(
    load: Load, environment: str, passed: set[str], exported: bool
) -> None:
    variables = dict(line.split("=", 1) for line in SECRETS.splitlines())
    variables["HULEEDU_ENVIRONMENT"] = environment
    settings = load(**variables) if exported else load(SECRETS, HULEEDU_ENVIRONMENT=environment)
    found = secrets_in(settings.service_environment())
    assert found == {"development", "override"} | passed


def test_compose_gets_no_secret_of_staging_or_production_from_env(load: Load) -> None:
    settings = load(SECRETS)
    assert secrets_in(settings.compose_environment()) == {"development", "override"}
    exported = load(SECRETS, HULEEDU_PROD_DB_PASSWORD="production")
    assert "production" in secrets_in(exported.compose_environment())


def test_a_tool_gets_no_secret(load: Load) -> None:
    assert secrets_in(load(SECRETS).tool_environment()) == set()
    variables = dict(line.split("=", 1) for line in SECRETS.splitlines())
    del variables["ACME_PROD_DB_PASSWORD"]
    assert secrets_in(load(**variables).tool_environment()) == set()
