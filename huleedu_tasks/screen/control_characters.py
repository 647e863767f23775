"""Escape the control characters in strings before they are printed on a terminal.

A revision, a server's message or a database's name may contain an escape sequence that erases a
line, or a character that changes the direction of writing. They are printed as Python escapes.
"""

import re
import unicodedata

# Begin new lines and columns.
_LAYOUT = "\n\t"
# Join letters and emoji, in several scripts.
_JOINERS = "\u200c\u200d"
# Control, format, surrogate, and the separators of lines and paragraphs.
_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
# A superset of those, so that most strings need no further check.
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e\xa0-\xac\xae-\u02ff]")


def visible(text: str) -> str:
    """Return a string with its control characters as Python escapes."""
    return _SUSPECT.sub(lambda found: _shown(found[0]), text.replace("\r\n", "\n"))


def visible_json(document: str) -> str:
    """Return the same JSON document with its control characters as JSON escapes."""
    return _SUSPECT.sub(lambda found: _escaped(found[0]), document)


def _acts(character: str) -> bool:
    if character in _LAYOUT or character in _JOINERS:
        return False
    return unicodedata.category(character) in _ACTING


def _shown(character: str) -> str:
    return ascii(character)[1:-1] if _acts(character) else character


def _escaped(character: str) -> str:
    if not _acts(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs)
