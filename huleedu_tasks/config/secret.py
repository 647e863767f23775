"""A text that must not be shown: masked wherever it is printed, revealed only by name."""

from collections.abc import Callable, Iterable, Mapping
from json import dumps
from urllib.parse import quote, quote_plus

MASK = "***"


class Secret:
    """Holds a password so that `str`, `repr` and f-strings show a mask."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
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
    """Replaces known secrets in text that somebody else wrote.

    Args:
        secrets: The secrets to look for, in each form in which programs print them: as they
            are, percent-encoded, in JSON, and as a Python literal.
    """

    # A shorter secret would blank out ordinary words, and protects nothing.
    SHORTEST = 3

    def __init__(self, secrets: Iterable[Secret]) -> None:
        forms = {form for secret in secrets for form in _printed_forms(secret.reveal())}
        self._forms = sorted((f for f in forms if len(f) >= self.SHORTEST), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return the text with every known secret masked."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text


def redacted(value: object, redact: Callable[[str], str]) -> object:
    """Return what stands in a JSON document with every text of it masked.

    Masking the finished text instead could break a string in two.
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item, redact) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item, redact) for item in value]
    return value


def _printed_forms(text: str) -> tuple[str, ...]:
    return (
        text,
        quote(text, safe=""),
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
