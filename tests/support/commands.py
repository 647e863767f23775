"""The commands that the documentation shows, and whether the program would accept them."""

import re
import shlex
from collections.abc import Iterator

from invoke.exceptions import ParseError
from invoke.parser import Parser

from huleedu_tasks.cli import namespace
from huleedu_tasks.cli.program import program

PROGRAMS = ("invoke", "huleedu")
TASK = re.compile(r"[a-z]+\.[a-z_]+")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
SEPARATORS = frozenset("();|&")


def shown(text: str) -> Iterator[list[str]]:
    """Return the words of every command of this package on a page, in a block or a sentence."""
    lines = re.findall(r"^ *\$ (.+)$", text.replace("\\\n", " "), re.MULTILINE)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in [*lines, *re.findall(r"`([^`\n]+)`", prose)]:
        yield from _ours(line)


def _ours(line: str) -> Iterator[list[str]]:
    for part in _parts(line):
        words = part[2:] if part[:2] == ["pdm", "run"] else part
        if words and words[0] in PROGRAMS and _is_complete(words):
            yield words


def _parts(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(
        line.replace("$(", " ; "), posix=True, punctuation_chars="".join(SEPARATORS)
    )
    lexer.whitespace_split = True
    lexer.commenters = "#"
    part: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= SEPARATORS:
            yield part
            part = []
        elif part or not ASSIGNMENT.fullmatch(word):
            part.append(word)


def _is_complete(words: list[str]) -> bool:
    """Whether it is a command, and not a program's name, a mention or `invoke X`."""
    return any(TASK.fullmatch(word) or word.startswith("--") for word in words[1:])


def problem(words: list[str]) -> str:
    """Return why Invoke would refuse a command, or an empty string if it would not."""
    core = Parser(initial=program.initial_context, ignore_unknown=True).parse_argv(words[1:])
    try:
        Parser(contexts=namespace.to_contexts()).parse_argv(core.unparsed)
    except ParseError as error:
        return f"{' '.join(words)}: {error}"
    return ""
