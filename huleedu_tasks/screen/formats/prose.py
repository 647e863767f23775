"""Sentences, commands and numbered steps of a message, as parts of a page."""

import re
from dataclasses import dataclass

_COMMAND = re.compile(r"`([^`\n]+)`")
_STEP = re.compile(r"(?:^|(?<=\s))(\d{1,2})\.\s+")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a sentence."""

    text: str
    is_command: bool


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, or numbered steps."""

    texts: tuple[str, ...]
    is_numbered: bool


def parts_of(text: str) -> tuple[Part, ...]:
    """Return a text with its commands, which stand in backticks, apart."""
    split = _COMMAND.split(text)
    return tuple(Part(part, number % 2 == 1) for number, part in enumerate(split) if part)


def blocks_of(text: str) -> tuple[Block, ...]:
    """Return the paragraphs and numbered steps of a text.

    Steps are numbered from 1, on lines of their own, or within a sentence if there are several.
    """
    steps: list[re.Match[str]] = []
    for found in _STEP.finditer(text):
        if int(found[1]) == len(steps) + 1:
            steps.append(found)
    if not steps or (len(steps) == 1 and text[: steps[0].start()].strip(" ")[-1:] != "\n"):
        return _paragraphs(text)
    ends = [found.start() for found in steps[1:]] + [len(text)]
    items = [text[step.end() : end].strip() for step, end in zip(steps, ends, strict=True)]
    # What follows an empty line belongs to no step.
    items[-1], _, rest = items[-1].partition("\n\n")
    numbered = Block(tuple(items), is_numbered=True)
    return (*_paragraphs(text[: steps[0].start()]), numbered, *_paragraphs(rest))


def _paragraphs(text: str) -> tuple[Block, ...]:
    found = (part.strip() for part in text.split("\n\n"))
    return tuple(Block((part,), is_numbered=False) for part in found if part)
