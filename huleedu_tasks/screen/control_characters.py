"""Characters from outside that would act on a terminal instead of being shown by it.

A revision, a server's message or a database's name may hold an escape sequence that erases a line,
or a tag that turns the direction of writing. Each is shown as Python writes it.
"""

import re
import unicodedata

# Begin new lines and columns.
_LAYOUT = "\n\t"
# Join letters and emoji, in several scripts.
_JOINERS = "\u200c\u200d"
# Control, format, surrogate, and the separators of lines and paragraphs.
_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
# All that may be one: most texts have none.
_SUSPECT = re.compile(r"[^\n\t\x20-\x7e\xa0-\xac\xae-\u02ff]")


def visible(text: str) -> str:
    """Return a text with everything in it that acts on a terminal written as an escape."""
    return _SUSPECT.sub(lambda found: _shown(found[0]), text.replace("\r\n", "\n"))


def visible_json(document: str) -> str:
    """Return a JSON document with the same content and nothing in it that acts on a terminal."""
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
