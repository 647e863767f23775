"""Secrets: strings that are masked in all output, and that only `reveal` returns."""

import re
from collections.abc import Callable, Iterable, Mapping
from json import dumps
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
# Parameters of a URL that hold a secret.
SECRET_PARAMETERS = frozenset({"password", "sslpassword"})
# Words, identifiers or digits, as they occur in names, paths and sentences.
_WORDS = re.compile(r"[^\W\d_]+|[A-Za-z]+(?:[_.-][A-Za-z]+)*|\d+")
_PLAIN = re.compile(r"[\w.-]*|\W*")
_SHORTEST_PLAIN = 6
_SECRET_NAME = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL|DSN|UR[IL]", re.IGNORECASE)
# The directories of a shell.
_NO_SECRETS = frozenset({"PWD", "OLDPWD"})
_LONGEST_WORDS = 19
# The password of a URL, unless it is a placeholder.
_IN_URL = re.compile(
    r"(?P<before>[a-zA-Z][\w+.-]*://[^\s/?#:@'\"]*:)(?!PASSWORD@|\*+@|\.+@|[$<{\[])[^\s/?#@'\"]+(?=@)"
)
_IN_QUERY = re.compile(
    rf"(?P<before>[?&](?:{'|'.join(sorted(SECRET_PARAMETERS))})=)(?!\*+)[^\s&#'\"]+", re.IGNORECASE
)
# What precedes a password that is stated by name: in a libpq DSN, in JSON, Python and SQL.
_NAMED = (
    r"(?P<before>(?:pass(?:word|wd|phrase)?|pwd|secret)['\"\])]*"
    r"(?:\s*[=:,]|\s)\s*[\[(]?[rbuE]?['\"]?)"
)


class Secret:
    """A password that `str`, `repr` and f-strings show as a mask."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the unmasked string."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __str__(self) -> str:
        return MASK if self._text else ""

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class Redactor:
    """Masks known secrets in messages, output of child processes, and logs.

    It searches for every form in which programs print a secret: literal, percent-encoded, as
    JSON, and as a Python literal. A secret that is an ordinary word is masked only in a URL and
    after the word `password`. The password of any URL is masked, known or not.

    Args:
        secrets: The secrets to mask; empty ones are ignored.
        names: Strings that must stay readable, such as names of services and paths. A secret that
            is a part of one counts as an ordinary word.
    """

    def __init__(self, secrets: Iterable[Secret], names: Iterable[str] = ()) -> None:
        known = "\n".join(names).lower()
        anywhere: set[str] = set()
        named: set[str] = set()
        for text in filter(None, (secret.reveal() for secret in secrets)):
            (named if is_ordinary(text, known) else anywhere).update(_printed_forms(text))
        self._anywhere = _longest_first(anywhere)
        self._named = _after_its_name(_longest_first(named)) if named else None

    def __call__(self, text: str) -> str:
        """Return a string with every known secret masked."""
        for form in self._anywhere:
            text = text.replace(form, MASK)
        if self._named:
            text = self._named.sub(rf"\g<before>{MASK}", text)
        return masked_urls(text)


def is_ordinary(text: str, names: str = "") -> bool:
    """Whether a secret may also be a word of a sentence, or a part of a name.

    Args:
        names: Names in lower case, separated by line breaks.
    """
    if text.lower() in names or (_PLAIN.fullmatch(text) and len(text) < _SHORTEST_PLAIN):
        return True
    return bool(_WORDS.fullmatch(text)) and len(text) <= _LONGEST_WORDS


def masked_urls(text: str) -> str:
    """Return a string with the password of each URL masked, before the host and in the query."""
    if "://" not in text:
        return text
    text = _IN_URL.sub(rf"\g<before>{MASK}", text)
    return _IN_QUERY.sub(rf"\g<before>{MASK}", text)


def secrets_in(variables: Mapping[str, str]) -> list[Secret]:
    """Return the secrets among environment variables, by their names and values."""
    found = []
    for name, value in variables.items():
        if not _SECRET_NAME.search(name) or name in _NO_SECRETS:
            continue
        if "://" in value:
            found += _secrets_of_url(value)
        elif not Path(value).is_absolute():
            found.append(Secret(value))
    return found


def _secrets_of_url(text: str) -> list[Secret]:
    try:
        parts = urlsplit(text)
    except ValueError:
        return [Secret(text)]
    # Without a password the user is the secret, as in the DSN of Sentry.
    stated = parts.password or parts.username or ""
    return [Secret(unquote(stated))]


def _longest_first(forms: set[str]) -> list[str]:
    return sorted(forms, key=len, reverse=True)


def _after_its_name(forms: list[str]) -> re.Pattern[str]:
    either = "|".join(map(re.escape, forms))
    return re.compile(rf"{_NAMED}(?:{either})(?!\w)", re.IGNORECASE)


def redact_values(value: object, redact: Callable[[str], str]) -> object:
    """Return a JSON value with every string in it masked.

    Masking the serialised document instead could break its syntax.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_values(item, redact) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_values(item, redact) for item in value]
    return value


def _printed_forms(text: str) -> tuple[str, ...]:
    return (
        text,
        quote(text, safe=""),
        _small_escapes(quote(text, safe="")),
        quote(text),
        quote_plus(text),
        # As SQLAlchemy renders a URL.
        quote(text, safe=" +"),
        dumps(text)[1:-1],
        dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        # Among other quotes, where that escapes this one.
        repr(f'"{text}')[2:-1],
        ascii(text)[1:-1],
        text.replace("%", "%%"),
        quote(text, safe="").replace("%", "%%"),
    )


def _small_escapes(quoted: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
