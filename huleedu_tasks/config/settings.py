"""The settings: the only reader of the process environment and of `.env`.

Real environment variables take precedence over `.env`, and an empty value counts as not set.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from huleedu_tasks.config import setting_types
from huleedu_tasks.config.dotenv import ENV_FILE, EnvFile, read_env_file
from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.setting_types import AnySetting, InvalidValue, PathSetting, Setting
from huleedu_tasks.config.variable_names import URL_NAME
from huleedu_tasks.config.worktree import linked_worktree
from huleedu_tasks.errors import ConfigurationError, Finding

# The default prefix of the names of all settings.
PREFIX = "HULEEDU"


class Environment(StrEnum):
    """Where the databases are: the values of `HULEEDU_ENVIRONMENT`."""

    DEVELOPMENT = "development"
    TESTING = "testing"
    STAGING = "staging"
    PRODUCTION = "production"

    @property
    def is_disposable(self) -> bool:
        """Whether the databases of this environment may be destroyed."""
        return self in (Environment.DEVELOPMENT, Environment.TESTING)


class ProviderName(StrEnum):
    """Where development servers come from: the values of `HULEEDU_PROVIDER`."""

    AUTO = "auto"
    DOCKER = "docker"
    EMBEDDED = "embedded"
    EXISTING = "existing"


EXTERNAL_PREFIX = {
    Environment.PRODUCTION: "HULEEDU_PROD_DB",
    Environment.STAGING: "HULEEDU_STAGING_DB",
}


def _external(environment: Environment) -> tuple[AnySetting, ...]:
    """Return the settings of staging or production."""
    prefix = EXTERNAL_PREFIX[environment]
    return (
        Setting(
            name=f"{prefix}_HOST",
            parse=setting_types.host,
            purpose=f"Host of the {environment} databases. Required there.",
        ),
        Setting(
            name=f"{prefix}_PORT",
            parse=setting_types.port,
            default="5432",
            purpose=f"Port of the {environment} databases.",
        ),
        Setting(
            name=f"{prefix}_PASSWORD",
            parse=Secret,
            secret=True,
            purpose=f"Password of `HULEEDU_DB_USER` in {environment}. Required there.",
        ),
        Setting(
            name=f"{prefix}_SSLMODE",
            parse=setting_types.ssl_mode,
            purpose="TLS mode, as libpq names them: use `verify-full`; `disable` states that an "
            "unencrypted connection is intended.",
        ),
        Setting(
            name=f"{prefix}_SSLROOTCERT",
            parse=setting_types.path,
            purpose="File with the certificate authorities that are trusted, as an absolute path; "
            "means `verify-full` if no mode is set.",
        ),
    )


_NEARLY_THE_SAME = 0.9
_URL_VARIABLE = "DATABASE_URL"
_DIRECT_URL_VARIABLE = "DIRECT_DATABASE_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """The value of one variable, an empty string if it is not set, and its source."""

    text: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one run, read once and checked.

    Attributes:
        root: The directory of the registry and of `.env`.
        process: The process environment.
        file: The values of `.env`.
        lines: The line number of each value in `.env`.
        borrowed: The `.env` of the main worktree, for a linked worktree without one; None if it is
            not used.
        unreadable: The findings for lines of `.env` that could not be parsed.
        prefix: The prefix of the settings in this repository; `HULEEDU` is accepted as well.
    """

    root: Path
    process: Mapping[str, str]
    file: Mapping[str, str]
    lines: Mapping[str, int]
    borrowed: Path | None = None
    unreadable: tuple[Finding, ...] = ()
    prefix: str = PREFIX

    environment = Setting(
        name="HULEEDU_ENVIRONMENT",
        parse=setting_types.one_of(Environment),
        default="development",
        purpose="Which databases: `development`, `testing`, `staging` or `production`.",
    )
    user = Setting(
        name="HULEEDU_DB_USER",
        parse=setting_types.user,
        purpose="User of every database. Required in development and testing; `huleedu_user` in "
        "staging and production if unset.",
    )
    password = Setting(
        name="HULEEDU_DB_PASSWORD",
        parse=Secret,
        secret=True,
        purpose="Password of that user. Required in development and testing.",
    )
    provider = Setting(
        name="HULEEDU_PROVIDER",
        parse=setting_types.one_of(ProviderName),
        default="auto",
        purpose="Where they come from: `auto`, `docker`, `embedded` or `existing`.",
    )
    postgres_bin = PathSetting(
        name="HULEEDU_POSTGRES_BIN",
        parse=setting_types.path,
        purpose="Directory with `postgres` and `initdb` for the embedded servers; searched for if "
        "unset.",
    )
    state_directory = PathSetting(
        name="HULEEDU_STATE_DIR",
        parse=setting_types.path,
        purpose="Directory for embedded servers and other state; `.huleedu` beside the registry "
        "if unset.",
    )
    instance = Setting(
        name="HULEEDU_INSTANCE",
        parse=setting_types.instance_name,
        purpose="Name of a fleet of databases of its own, beside the main one; `off` for none. If "
        "unset, a linked Git worktree has one.",
    )
    embedded_durable = Setting(
        name="HULEEDU_EMBEDDED_DURABLE",
        parse=setting_types.truth,
        default="false",
        purpose="`true` makes embedded servers flush to disk, which is slower.",
    )
    undo = Setting(
        name="HULEEDU_UNDO",
        parse=setting_types.truth,
        default="true",
        purpose="`false` keeps no undo snapshot of a database that a command replaces or changes.",
    )
    undo_limit = Setting(
        name="HULEEDU_UNDO_LIMIT",
        parse=setting_types.integer,
        default="10000",
        purpose="Megabytes that the undo snapshots on one server may take; the oldest are dropped.",
    )
    drift = Setting(
        name="HULEEDU_DRIFT",
        parse=setting_types.truth,
        default="true",
        purpose="`false` leaves drift out of `prod.validate`, `prod.plan` and `prod.migrate`, as "
        "`--no-drift` does.",
    )
    rehearsal = Setting(
        name="HULEEDU_REHEARSAL",
        parse=setting_types.truth,
        default="true",
        purpose="`false` leaves the rehearsal of revisions out of `prod.plan` and `prod.migrate`, "
        "as `--no-rehearsal` does.",
    )
    require_downgrades = Setting(
        name="HULEEDU_REQUIRE_DOWNGRADES",
        parse=setting_types.truth,
        default="false",
        purpose="`true` makes `migrations.test` fail for a revision without a downgrade.",
    )
    jobs = Setting(
        name="HULEEDU_JOBS",
        parse=setting_types.processors,
        purpose="How many services are migrated at once; the number of processors if unset.",
    )
    start_timeout = Setting(
        name="HULEEDU_START_TIMEOUT",
        parse=setting_types.seconds,
        default="60",
        purpose="Seconds a server may take until it accepts its user.",
    )
    migration_timeout = Setting(
        name="HULEEDU_MIGRATION_TIMEOUT",
        parse=setting_types.seconds,
        default="600",
        purpose="Seconds the migrations, and then the seeds, of one service may take.",
    )
    lock_timeout = Setting(
        name="HULEEDU_LOCK_TIMEOUT",
        parse=setting_types.seconds_or_no_limit,
        default="5",
        purpose="Seconds a statement of `prod.migrate` may wait for a lock on a table, while all "
        "other clients queue behind it; 0 is without limit. A service's own `lock_timeout` in the "
        "registry takes precedence.",
    )
    lock_attempts = Setting(
        name="HULEEDU_LOCK_ATTEMPTS",
        parse=setting_types.integer,
        default="5",
        purpose="Number of attempts for a revision that reached the lock timeout, with a growing "
        "pause in between.",
    )
    statement_timeout = Setting(
        name="HULEEDU_STATEMENT_TIMEOUT",
        parse=setting_types.seconds_or_no_limit,
        default="300",
        purpose="Seconds a statement of `prod.migrate` may take; 0 is without limit. A service's "
        "own `statement_timeout` in the registry takes precedence.",
    )
    run_wait = Setting(
        name="HULEEDU_RUN_WAIT",
        parse=setting_types.seconds_or_no_limit,
        default="300",
        purpose="Seconds `prod.migrate` waits for another run on the same database to end.",
    )
    backup_timeout = Setting(
        name="HULEEDU_BACKUP_TIMEOUT",
        parse=setting_types.seconds,
        default="3600",
        purpose="Seconds each backup of `prod.migrate` may take.",
    )
    registry = PathSetting(
        name="HULEEDU_REGISTRY",
        parse=setting_types.path,
        process_only=True,
        purpose="Path of the registry. If unset, `services.json` in this directory or the nearest "
        "one above. Read from the process environment only: `.env` is beside the registry.",
    )

    @classmethod
    def load(cls, root: Path, *, prefix: str = PREFIX) -> "Settings":
        """Read the process environment and `root/.env`, and check every setting.

        Args:
            root: The directory of the registry.
            prefix: The prefix of the settings, as the registry states it.

        Raises:
            ConfigurationError: If a value is not valid, or a line of `.env` cannot be parsed;
                with all findings.
        """
        settings = cls.read(root, prefix=prefix)
        if findings := settings.findings():
            raise _unacceptable(findings)
        return settings

    @classmethod
    def read(cls, root: Path, *, prefix: str = PREFIX) -> "Settings":
        """Read the settings without checking them; `findings` returns their errors.

        Args:
            root: As in `load`.
            prefix: As in `load`.

        Raises:
            ConfigurationError: If `HULEEDU_ENVIRONMENT` is not valid.
        """
        process = dict(os.environ)
        borrowed = _borrowed_env_file(root)
        file = read_env_file(borrowed or root / ENV_FILE, process)
        settings = cls(
            root=root,
            process=process,
            file=file.values,
            lines=file.lines,
            borrowed=borrowed,
            unreadable=(*file.findings, *_unset_references(file)),
            prefix=prefix,
        )
        if settings._problem(cls.environment):
            raise _unacceptable(settings.findings())
        return settings

    @staticmethod
    def registry_path() -> str:
        """Return the value of `HULEEDU_REGISTRY`; an empty string if it is not set."""
        return os.environ.get(Settings.registry.name, "")

    def value(self, name: str) -> Value:
        """Return a variable's value from the process environment, `.env` or its default."""
        stated, source = self._stated(name)
        if stated:
            return Value(text=stated, source=source)
        default = _BY_NAME[name].default if name in _BY_NAME else ""
        return Value(text=default, source="default" if default else "not set")

    def get(self, name: str) -> str:
        """Return a variable's value; an empty string if it is not set."""
        return self.value(name).text

    def own_name(self, name: str) -> str:
        """Return a setting's name with the prefix of this repository; any other name unchanged."""
        if name not in _BY_NAME or _BY_NAME[name].process_only:
            return name
        return f"{self.prefix}{name.removeprefix(PREFIX)}"

    def spelled(self, name: str) -> str:
        """Return the name under which a setting is set; if it is not set, with our prefix.

        Args:
            name: The name with the default prefix.
        """
        own = f"{self.prefix}{name.removeprefix(PREFIX)}"
        stated = self.process.keys() | self.file.keys()
        return name if name in stated and own not in stated else own

    def stated_for_process(self, names: Sequence[str]) -> dict[str, str]:
        """Return settings that a process without this process environment would read otherwise.

        Args:
            names: Their names with the default prefix.

        Returns:
            Their values by the names under which they are set.
        """
        others = replace(self, process={})
        return {self.spelled(n): self.get(n) for n in names if self.get(n) != others.get(n)}

    def _spellings(self, name: str) -> tuple[str, ...]:
        """Return the names under which a variable is read, the first one takes precedence."""
        return tuple(dict.fromkeys((self.own_name(name), name)))

    def _stated(self, name: str) -> tuple[str, str]:
        file = {} if name in _BY_NAME and _BY_NAME[name].process_only else self.file
        for spelled in self._spellings(name):
            if spelled in self.process:
                return self.process[spelled], "environment"
            if spelled in file:
                return file[spelled], f"{self.borrowed or ENV_FILE} line {self.lines[spelled]}"
        return "", ""

    @property
    def env_file(self) -> Path:
        """The path of the `.env` that is read; the file need not exist."""
        return self.borrowed or self.root / ENV_FILE

    def shown(self, name: str) -> str:
        """Return a variable's value for output, with passwords and URLs masked."""
        text = self.get(name)
        if name in _BY_NAME and not _BY_NAME[name].secret:
            return text
        # An override usually contains a password, and may be too malformed to mask only that.
        return str(Secret(text))

    def secret(self, name: str) -> Secret:
        """Return a variable's value as a secret."""
        return Secret(self.get(name))

    def variables(self) -> dict[str, str]:
        """Return all variables: `.env`, overridden by the real environment.

        Only for a command that the user states, which may need any of them.
        """
        return {**self.file, **self.process}

    def service_environment(self) -> dict[str, str]:
        """Return the environment of a service's own code.

        It has no password of staging or production, except that of the current environment.
        """
        return {
            name: value
            for name, value in self.variables().items()
            if not is_external_secret(name) or self._is_of_this_environment(name)
        }

    def compose_environment(self) -> dict[str, str]:
        """Return the environment of Compose: `.env` without the secrets of staging and production.

        Variables of the real environment are passed unchanged, as if the user ran Compose.
        """
        public = {name: v for name, v in self.file.items() if not is_external_secret(name)}
        return {**public, **self.process}

    def tool_environment(self) -> dict[str, str]:
        """Return the environment of a tool that needs no setting, such as psql or squawk.

        It is the real environment without passwords of the settings and without database URLs.
        """
        secret = {
            name for found in SETTINGS if found.secret for name in self._spellings(found.name)
        }
        return {
            name: value
            for name, value in self.process.items()
            if name not in secret and not URL_NAME.search(name)
        }

    def _is_of_this_environment(self, name: str) -> bool:
        if self.environment.is_disposable:
            return False
        own = EXTERNAL_PREFIX[self.environment].removeprefix(PREFIX)
        return name.endswith((f"{own}_PASSWORD", _DIRECT_URL_VARIABLE))

    def secrets(self) -> list[Secret]:
        """Return the values of all settings that are passwords."""
        return [self.secret(found.name) for found in SETTINGS if found.secret]

    def names(self) -> list[str]:
        """Return the values of all settings that are not secret."""
        public = [found.name for found in SETTINGS if not found.secret]
        return [text for name in public if (text := self.get(name))]

    def findings(self) -> list[Finding]:
        """Return a finding for every invalid value and every line that could not be parsed."""
        return [*self.unreadable, *self._own_findings]

    @cached_property
    def _own_findings(self) -> tuple[Finding, ...]:
        """The findings for values and names, which every URL of production asks for."""
        problems = filter(None, map(self._problem, SETTINGS))
        return (*problems, *self._misspelled())

    def _problem(self, stated: AnySetting) -> Finding | None:
        value = self.value(stated.name)
        try:
            stated.parse(value.text)
        except InvalidValue as error:
            place = f"{stated.name} ({value.source})"
            return Finding(place=place, problem=str(error), code=error.code)
        return None

    def _misspelled(self) -> Iterator[Finding]:
        """Yield names that look like a misspelled setting, which would silently be ignored."""
        known = sorted({*_BY_NAME, *map(self.own_name, _BY_NAME)})
        for name in sorted({*self.process, *self.file}.difference(known)):
            close = get_close_matches(name, known, n=1, cutoff=_NEARLY_THE_SAME)
            if close:
                place = f"{name} ({self._stated(name)[1]})"
                yield Finding(
                    place=place, problem=f"is not a known setting; did you mean {close[0]}?"
                )


def _unacceptable(findings: Sequence[Finding]) -> ConfigurationError:
    return ConfigurationError(
        "The settings have errors.",
        code="settings-invalid",
        findings=findings,
        hint="Correct them; `invoke env.show` shows each variable and where it comes from.",
    )


def _borrowed_env_file(root: Path) -> Path | None:
    """Return the `.env` of the main worktree for a linked one without: Git does not copy it."""
    if (root / ENV_FILE).exists() or not (worktree := linked_worktree(root)):
        return None
    path = worktree.in_main(root) / ENV_FILE
    return path if path.is_file() else None


def _unset_references(file: EnvFile) -> Iterator[Finding]:
    """Yield unset references in settings and URLs; other tools read the other variables."""
    for key, names in file.unset.items():
        if key not in _BY_NAME and not key.endswith(_URL_VARIABLE):
            continue
        for name in names:
            yield Finding(
                place=f"{key} ({ENV_FILE} line {file.lines[key]})",
                problem=f"refers to ${{{name}}}, which is set neither above nor in the "
                "environment; if it is literal, put the value in single quotes",
                code="env-reference-unset",
            )


def is_external_secret(name: str) -> bool:
    """Whether a variable has a password of staging or production, with any prefix."""
    return name.endswith(_EXTERNAL_SECRETS)


SETTINGS: tuple[AnySetting, ...] = (
    *(found for found in vars(Settings).values() if isinstance(found, Setting)),
    *_external(Environment.PRODUCTION),
    *_external(Environment.STAGING),
)
_BY_NAME = {found.name: found for found in SETTINGS}
_EXTERNAL_SECRETS = (
    *(f"{prefix.removeprefix(PREFIX)}_PASSWORD" for prefix in EXTERNAL_PREFIX.values()),
    _DIRECT_URL_VARIABLE,
)
