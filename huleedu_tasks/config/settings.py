"""The settings: the only reader of the process environment and of `.env`.

Real environment variables take precedence over `.env`, and an empty value counts as not set.
`${NAME}` in `.env` is substituted, except in single quotes; a `$` without braces is literal.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from huleedu_tasks.config.hosts import host_problem
from huleedu_tasks.config.references import References
from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.url_parts import LAST_PORT
from huleedu_tasks.errors import ConfigurationError, Finding

# The default prefix of the names of all settings.
PREFIX = "HULEEDU"
ENV_FILE = ".env"
ENV_EXAMPLE = "env.example"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One environment variable this package reads."""

    name: str
    purpose: str
    default: str = ""
    secret: bool = False
    # Read from the process environment only, since `.env` is beside the registry.
    process_only: bool = False


def _external_variables(environment: Environment, prefix: str) -> tuple[Variable, ...]:
    return (
        Variable(name=f"{prefix}_HOST", purpose=f"Host of the {environment} databases."),
        Variable(
            name=f"{prefix}_PORT", purpose=f"Port of the {environment} databases.", default="5432"
        ),
        Variable(
            name=f"{prefix}_PASSWORD",
            purpose=f"Password of `HULEEDU_DB_USER` in {environment}.",
            secret=True,
        ),
        Variable(
            name=f"{prefix}_SSLMODE",
            purpose=f"TLS mode in {environment}, as libpq names them, for example `verify-full`.",
        ),
        Variable(
            name=f"{prefix}_SSLROOTCERT",
            purpose=f"File with the certificate authorities trusted in {environment}.",
        ),
    )


EXTERNAL_PREFIX = {
    Environment.PRODUCTION: "HULEEDU_PROD_DB",
    Environment.STAGING: "HULEEDU_STAGING_DB",
}

VARIABLES = (
    Variable(
        name="HULEEDU_ENVIRONMENT",
        purpose="Which databases: `development`, `testing`, `staging` or `production`.",
        default="development",
    ),
    Variable(
        name="HULEEDU_DB_USER",
        purpose="User of every database; `huleedu_user` in staging and production if unset.",
    ),
    Variable(
        name="HULEEDU_DB_PASSWORD",
        purpose="Password of that user in development and testing.",
        secret=True,
    ),
    Variable(
        name="HULEEDU_PROVIDER",
        purpose="Where development servers come from: `auto`, `docker`, `embedded` or `existing`.",
        default="auto",
    ),
    *_external_variables(Environment.PRODUCTION, EXTERNAL_PREFIX[Environment.PRODUCTION]),
    *_external_variables(Environment.STAGING, EXTERNAL_PREFIX[Environment.STAGING]),
    Variable(
        name="HULEEDU_POSTGRES_BIN",
        purpose="Directory with `postgres` and `initdb` for the embedded servers.",
    ),
    Variable(
        name="HULEEDU_STATE_DIR",
        purpose="Directory for embedded servers and other state; `.huleedu` beside the registry.",
    ),
    Variable(
        name="HULEEDU_EMBEDDED_DURABLE",
        purpose="`true` makes embedded servers flush to disk, which is slower.",
        default="false",
    ),
    Variable(
        name="HULEEDU_JOBS",
        purpose="How many services are migrated at once; the number of processors if unset.",
    ),
    Variable(
        name="HULEEDU_START_TIMEOUT",
        purpose="Seconds a server may take until it accepts its user.",
        default="60",
    ),
    Variable(
        name="HULEEDU_MIGRATION_TIMEOUT",
        purpose="Seconds the migrations, and then the seeds, of one service may take.",
        default="600",
    ),
    Variable(
        name="HULEEDU_LOCK_TIMEOUT",
        purpose="Seconds a statement of `prod.migrate` may wait for a lock; 0 for no limit.",
        default="5",
    ),
    Variable(
        name="HULEEDU_LOCK_ATTEMPTS",
        purpose="Number of attempts for a revision that reaches the lock timeout.",
        default="5",
    ),
    Variable(
        name="HULEEDU_STATEMENT_TIMEOUT",
        purpose="Seconds a statement of `prod.migrate` may take; 0 for no limit.",
        default="300",
    ),
    Variable(
        name="HULEEDU_RUN_WAIT",
        purpose="Seconds `prod.migrate` waits for another run to end.",
        default="300",
    ),
    Variable(
        name="HULEEDU_BACKUP_TIMEOUT",
        purpose="Seconds each backup of `prod.migrate` may take.",
        default="3600",
    ),
    Variable(
        name="HULEEDU_REGISTRY",
        purpose="Path of the registry; `services.json` in this directory or one above if unset.",
        process_only=True,
    ),
)

_BY_NAME = {variable.name: variable for variable in VARIABLES}
_NEARLY_THE_SAME = 0.9
_URL_VARIABLE = "DATABASE_URL"
_IN_SINGLE_QUOTES = re.compile(r"\s*(?:export\s+)?(?:'[^']*'|[^=#\s]+)\s*=[^\S\r\n]*'")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


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
        unreadable: The findings for lines of `.env` that could not be parsed.
        prefix: The prefix of the settings in this repository; `HULEEDU` is accepted as well.
    """

    root: Path
    process: Mapping[str, str]
    file: Mapping[str, str]
    lines: Mapping[str, int]
    unreadable: tuple[Finding, ...] = ()
    prefix: str = PREFIX

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
        file, lines, unreadable = read_env_file(root / ENV_FILE, process)
        settings = cls(
            root=root,
            process=process,
            file=file,
            lines=lines,
            unreadable=tuple(unreadable),
            prefix=prefix,
        )
        if _one_of(Environment, settings.get("HULEEDU_ENVIRONMENT")):
            raise _unacceptable(settings.findings())
        return settings

    @staticmethod
    def registry_path() -> str:
        """Return the value of `HULEEDU_REGISTRY`; an empty string if it is not set."""
        return os.environ.get("HULEEDU_REGISTRY", "")

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

    def _stated(self, name: str) -> tuple[str, str]:
        file = {} if name in _BY_NAME and _BY_NAME[name].process_only else self.file
        for spelled in dict.fromkeys((self.own_name(name), name)):
            if spelled in self.process:
                return self.process[spelled], "environment"
            if spelled in file:
                return file[spelled], f"{ENV_FILE} line {self.lines[spelled]}"
        return "", ""

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

    @cached_property
    def environment(self) -> Environment:
        """The value of `HULEEDU_ENVIRONMENT`."""
        return Environment(self.get("HULEEDU_ENVIRONMENT").strip().lower())

    @cached_property
    def provider(self) -> ProviderName:
        """The value of `HULEEDU_PROVIDER`."""
        return ProviderName(self.get("HULEEDU_PROVIDER").strip().lower())

    @property
    def jobs(self) -> int:
        """How many services are migrated at once."""
        return int(self.get("HULEEDU_JOBS") or os.cpu_count() or 1)

    @property
    def start_timeout(self) -> float:
        """Seconds a server may take until it accepts its user."""
        return float(self.get("HULEEDU_START_TIMEOUT"))

    @property
    def migration_timeout(self) -> float:
        """Seconds the migrations, and then the seeds, of one service may take."""
        return float(self.get("HULEEDU_MIGRATION_TIMEOUT"))

    @property
    def lock_timeout(self) -> float:
        """Seconds a statement of `prod.migrate` may wait for a lock; 0 for no limit."""
        return float(self.get("HULEEDU_LOCK_TIMEOUT"))

    @property
    def lock_attempts(self) -> int:
        """The number of attempts for a revision that reaches the lock timeout."""
        return int(self.get("HULEEDU_LOCK_ATTEMPTS"))

    @property
    def statement_timeout(self) -> float:
        """Seconds a statement of `prod.migrate` may take; 0 for no limit."""
        return float(self.get("HULEEDU_STATEMENT_TIMEOUT"))

    @property
    def run_wait(self) -> float:
        """Seconds `prod.migrate` waits for another run to end."""
        return float(self.get("HULEEDU_RUN_WAIT"))

    @property
    def backup_timeout(self) -> float:
        """Seconds each backup of `prod.migrate` may take."""
        return float(self.get("HULEEDU_BACKUP_TIMEOUT"))

    @property
    def embedded_durable(self) -> bool:
        """Whether embedded servers flush to disk."""
        return _TRUTH[self.get("HULEEDU_EMBEDDED_DURABLE").strip().lower()]

    @property
    def state_directory(self) -> Path | None:
        """The value of `HULEEDU_STATE_DIR` as a path; None if it is not set."""
        return self._path("HULEEDU_STATE_DIR")

    @property
    def postgres_bin(self) -> Path | None:
        """The value of `HULEEDU_POSTGRES_BIN` as a path; None if it is not set."""
        return self._path("HULEEDU_POSTGRES_BIN")

    def child_environment(self) -> dict[str, str]:
        """Return the environment of child processes: `.env`, overridden by the real environment."""
        return {**self.file, **self.process}

    def secrets(self) -> list[Secret]:
        """Return the values of all settings that are passwords."""
        return [self.secret(variable.name) for variable in VARIABLES if variable.secret]

    def names(self) -> list[str]:
        """Return the values of all settings that are not secret."""
        public = [variable.name for variable in VARIABLES if not variable.secret]
        return [text for name in public if (text := self.get(name))]

    def _path(self, name: str) -> Path | None:
        text = self.get(name)
        return self.root / Path(text).expanduser() if text else None

    def findings(self) -> list[Finding]:
        """Return a finding for every invalid value and every line that could not be parsed."""
        checks: dict[str, Callable[[str], str]] = {
            "HULEEDU_ENVIRONMENT": lambda text: _one_of(Environment, text),
            "HULEEDU_PROVIDER": lambda text: _one_of(ProviderName, text),
            "HULEEDU_EMBEDDED_DURABLE": lambda text: _one_of(_TRUTH, text),
            "HULEEDU_JOBS": lambda text: _number(text, at_least=1, whole=True),
            "HULEEDU_START_TIMEOUT": lambda text: _number(text, at_least=1),
            "HULEEDU_MIGRATION_TIMEOUT": lambda text: _number(text, at_least=1),
            "HULEEDU_LOCK_TIMEOUT": lambda text: _number(text, at_least=0),
            "HULEEDU_LOCK_ATTEMPTS": lambda text: _number(text, at_least=1, whole=True),
            "HULEEDU_STATEMENT_TIMEOUT": lambda text: _number(text, at_least=0),
            "HULEEDU_RUN_WAIT": lambda text: _number(text, at_least=0),
            "HULEEDU_BACKUP_TIMEOUT": lambda text: _number(text, at_least=1),
            **{f"{prefix}_PORT": _port for prefix in EXTERNAL_PREFIX.values()},
            **{f"{prefix}_SSLMODE": _ssl_mode for prefix in EXTERNAL_PREFIX.values()},
            **{f"{prefix}_HOST": host_problem for prefix in EXTERNAL_PREFIX.values()},
            "HULEEDU_DB_USER": _line_break,
        }
        findings = list(self.unreadable)
        for name, check in checks.items():
            text = self.get(name)
            if text and (problem := check(text)):
                place = f"{name} ({self.value(name).source})"
                code = _CODES.get(check, "")
                findings.append(Finding(place=place, problem=problem, code=code))
        return [*findings, *self._misspelled()]

    def _misspelled(self) -> Iterator[Finding]:
        """Yield names that look like a misspelled setting, which would silently be ignored."""
        known = {*_BY_NAME, *map(self.own_name, _BY_NAME)}
        for name in sorted({*self.process, *self.file} - known):
            close = get_close_matches(name, sorted(known), n=1, cutoff=_NEARLY_THE_SAME)
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


def _one_of(allowed: type[StrEnum] | Mapping[str, bool], text: str) -> str:
    names = list(allowed) if isinstance(allowed, Mapping) else [str(member) for member in allowed]
    if text.strip().lower() in names:
        return ""
    return f"{text!r} is not one of {', '.join(names)}"


def _number(text: str, *, at_least: int, whole: bool = False) -> str:
    # int() accepts 5_432 and digits of other scripts; parsers of URLs do not.
    if whole and not (text.isascii() and text.isdecimal()):
        return f"{text!r} is not an integer"
    try:
        number = float(text)
    except ValueError:
        return f"{text!r} is not a number"
    # `nan` compares as false with any number, and is refused here too.
    return "" if number >= at_least else f"{text!r} is not {at_least} or more"


def _ssl_mode(text: str) -> str:
    # Compared literally, because it is put into a URL unchanged.
    return "" if text in SSL_MODES else f"{text!r} is not one of {', '.join(SSL_MODES)}"


def _port(text: str) -> str:
    problem = _number(text, at_least=1, whole=True)
    return problem or ("" if int(text) <= LAST_PORT else f"{text!r} is greater than {LAST_PORT}")


def _line_break(text: str) -> str:
    return f"{text!r} ends with a line break" if text.endswith(("\n", "\r")) else ""


_CODES: dict[Callable[[str], str], str] = {
    host_problem: "host-invalid",
    _line_break: "setting-line-break",
}


def read_env_file(
    path: Path, process: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, int], list[Finding]]:
    """Return the values of a `.env`, the line number of each, and the findings.

    All are empty if the file does not exist.

    Args:
        path: The path of the file.
        process: The process environment, which takes precedence for references in values.
    """
    try:
        # Some editors write a byte order mark, which is not a part of the first name.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}, {}, []
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        return {}, {}, [Finding(place=str(path), problem=problem)]
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start}); save it in that encoding"
        return {}, {}, [Finding(place=str(path), problem=problem)]
    return _parse_env_file(text, process)


def _parse_env_file(
    text: str, process: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, int], list[Finding]]:
    import io

    # The parser below `dotenv_values` also returns the line of each value, and the lines that it
    # could not parse.
    from dotenv.parser import parse_stream

    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    findings = []
    for binding in parse_stream(io.StringIO(text)):
        statement = binding.original.string
        line = binding.original.line + len(statement[: -len(statement.lstrip())].splitlines())
        if binding.error:
            # The line may contain a password, so the finding does not repeat it.
            place = f"{ENV_FILE} line {line}"
            problem = "is not NAME=value; a value with a quote or a # in it needs quotes around it"
            findings.append(Finding(place=place, problem=problem))
        elif binding.key is not None:
            value = binding.value or ""
            if not _IN_SINGLE_QUOTES.match(statement):
                references = References(variables={**values, **process})
                value = references.fill_in(value)
                findings += _unset_references(binding.key, line, references.unset)
            values[binding.key] = value
            lines[binding.key] = line
    return values, lines, findings


def _unset_references(key: str, line: int, unset: Sequence[str]) -> Iterator[Finding]:
    """Yield unset references in settings and URLs; other tools read the other variables."""
    if key not in _BY_NAME and not key.endswith(_URL_VARIABLE):
        return
    for name in dict.fromkeys(unset):
        yield Finding(
            place=f"{key} ({ENV_FILE} line {line})",
            problem=f"refers to ${{{name}}}, which is set neither above nor in the environment; "
            "if it is literal, put the value in single quotes",
            code="env-reference-unset",
        )
