"""Splits an SQL file into statements, as far as running it in one transaction requires.

The tokens are those of psql (psqlscan.l): a semicolon in a string, a quoted name, a dollar quote, a
nested comment or a body between BEGIN ATOMIC and END does not end a statement. PostgreSQL parses
the rest.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from huleedu_tasks.errors import SeedError

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    # An escape string continues after a line break.
    | (?P<escaped>[eE]{escaped}(?:\s*\n\s*{escaped})*)
    | (?P<string>'[^']*(?:'|\Z))
    | (?P<name>"[^"]*(?:"|\Z))
    | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<command>\\[^\n]*)
    | (?P<other>.)
    """.replace("{escaped}", r"'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?:'|\Z)"),
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# A file with one of these words must be split; any other is sent as a whole.
_SPLIT = re.compile(r"\\|\b(?:copy|begin|commit|end|abort|rollback|start|prepare)\b", re.IGNORECASE)
# The line that ends the rows of COPY.
_END_OF_ROWS = re.compile(r"^\\\.[ \t]*$", re.MULTILINE)
# pg_dump writes \restrict and \unrestrict, which only psql interprets.
_RESTRICTING = re.compile(r"\\(?:un)?restrict\b")
_TRANSACTION = {"BEGIN", "COMMIT", "END", "ABORT", "ROLLBACK"}
_LONG_TRANSACTION = {("START", "TRANSACTION"), ("PREPARE", "TRANSACTION")}
_CONNECTING = {"\\c", "\\connect"}
# The number of leading words that identify a statement: CREATE OR REPLACE FUNCTION.
_IDENTIFYING_WORDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement of a file.

    Attributes:
        start: The index of its first character in the file.
        end: The index after its last character, without the semicolon.
        rows: The start and end of the rows of a COPY FROM STDIN; None for other statements.
    """

    start: int
    end: int
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlFile:
    """An SQL file.

    Attributes:
        name: Its name, for messages.
        text: Its content, in which psql's restrict commands are replaced by blanks.
        statements: Its statements, in order.
        is_whole: Whether the file was not split: `statements` has one entry for all of it.
    """

    name: str
    text: str
    statements: tuple[Statement, ...]
    is_whole: bool = False

    def line_of(self, position: int) -> int:
        """Return the number of the line of a character; the first line is 1."""
        return self.text.count("\n", 0, position) + 1

    def singly(self, part: tuple[Statement, ...]) -> tuple[Statement, ...]:
        """Return the statements of a part one by one."""
        return _Reader(self.text, self.name).read().statements if self.is_whole else part

    @property
    def parts(self) -> Iterator[tuple[Statement, ...]]:
        """The statements, in groups that can each be sent at once; a COPY is alone."""
        together: list[Statement] = []
        for statement in self.statements:
            if statement.rows is None:
                together.append(statement)
                continue
            if together:
                yield tuple(together)
            yield (statement,)
            together = []
        if together:
            yield tuple(together)


def read_statements(text: str, name: str) -> SqlFile:
    """Split an SQL file into statements.

    Args:
        name: Its name, for messages.

    Raises:
        SeedError: If it has a psql command, or a statement that controls the transaction.
    """
    if _SPLIT.search(text):
        return _Reader(text, name).read()
    # asyncpg 0.32 fails on a string without any statement.
    text = f"{text}\n;SELECT"
    whole = Statement(start=0, end=len(text))
    return SqlFile(name=name, text=text, statements=(whole,), is_whole=True)


@dataclass(slots=True)
class _Opened:
    """A statement whose end has not been found yet."""

    start: int = -1
    end: int = 0
    words: list[str] = field(default_factory=list)
    parentheses: int = 0
    bodies: int = 0

    @property
    def may_end(self) -> bool:
        return not self.parentheses and not self.bodies

    @property
    def is_copy_from_stdin(self) -> bool:
        return self.words[:1] == ["COPY"] and "FROM STDIN" in " ".join(self.words)

    @property
    def controls_transaction(self) -> bool:
        if self.words[:1] == ["ROLLBACK"] and "TO" in self.words[1:3]:
            return False
        is_short = bool(_TRANSACTION.intersection(self.words[:1]))
        return is_short or tuple(self.words[:2]) in _LONG_TRANSACTION

    def take(self, start: int, end: int) -> None:
        """Extend the statement to a token."""
        self.start = start if self.start < 0 else self.start
        self.end = end

    def take_word(self, word: str) -> None:
        """Record a word outside of strings and quoted names."""
        if self.parentheses:
            return
        if len(self.words) < _IDENTIFYING_WORDS or self.words[0] == "COPY":
            self.words.append(word)
        if self.words[0] != "CREATE" or not {"FUNCTION", "PROCEDURE"}.intersection(self.words):
            return
        # CASE has an END as well.
        if word == "BEGIN" or (word == "CASE" and self.bodies):
            self.bodies += 1
        elif word == "END" and self.bodies:
            self.bodies -= 1


class _Reader:
    """Splits a string into statements, token by token."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._found: list[Statement] = []
        self._blanks: list[tuple[int, int]] = []
        self._opened = _Opened()

    def read(self) -> SqlFile:
        position = 0
        while token := _TOKEN.match(self._text, position):
            position = self._take(token)
        self._close()
        text = self._text
        for start, end in self._blanks:
            text = text[:start] + " " * (end - start) + text[end:]
        return SqlFile(name=self._name, text=text, statements=tuple(self._found))

    def _take(self, token: re.Match[str]) -> int:
        """Process a token; return the index of the next one."""
        kind, word = token.lastgroup, token[0]
        if kind == "space":
            return token.end()
        if kind == "comment":
            return self._end_of_comment(token.end())
        if kind == "command":
            self._require_ignorable(token)
            self._blanks.append(token.span())
            return token.end()
        if word == ";" and self._opened.may_end:
            return self._close(token.end())
        self._opened.take(*token.span())
        if kind == "word":
            self._opened.take_word(word.upper())
        elif word == "(":
            self._opened.parentheses += 1
        elif word == ")" and self._opened.parentheses:
            self._opened.parentheses -= 1
        return token.end()

    def _close(self, position: int = 0) -> int:
        """End the current statement; return the index of the next token."""
        opened, self._opened = self._opened, _Opened()
        if opened.start < 0:
            return position
        if opened.controls_transaction:
            raise self._transaction_error(opened)
        rows = None
        if opened.is_copy_from_stdin:
            start, end, position = self._rows(position)
            rows = (start, end)
        self._found.append(Statement(start=opened.start, end=opened.end, rows=rows))
        return position

    def _rows(self, position: int) -> tuple[int, int, int]:
        """Return the start and end of the rows of a COPY, and the index of the next token."""
        end_of_line = self._text.find("\n", position)
        start = len(self._text) if end_of_line < 0 else end_of_line + 1
        end = _END_OF_ROWS.search(self._text, start)
        length = len(self._text)
        return start, end.start() if end else length, end.end() if end else length

    def _end_of_comment(self, position: int) -> int:
        depth = 1
        while edge := _COMMENT_EDGE.search(self._text, position):
            depth += 1 if edge[0] == "/*" else -1
            position = edge.end()
            if not depth:
                return position
        return len(self._text)

    def _line(self, position: int) -> int:
        return self._text.count("\n", 0, position) + 1

    def _transaction_error(self, opened: _Opened) -> SeedError:
        statement = self._text[opened.start : opened.end]
        return SeedError(
            f"The seed {self._name} controls the transaction in line {self._line(opened.start)}: "
            f"{statement}",
            code="seed-transaction",
            hint="Remove the statement. All seeds of a service run in one transaction, which was "
            "rolled back. SAVEPOINT is allowed.",
        )

    def _require_ignorable(self, command: re.Match[str]) -> None:
        if _RESTRICTING.match(command[0]):
            return
        word = command[0].split()[0]
        why = "A seed may contain only SQL."
        if word in _CONNECTING:
            why = "A seed runs on its own service's database; export it without `--create`."
        raise SeedError(
            f"The seed {self._name} has a psql command in line {self._line(command.start())}: "
            f"{word}",
            code="seed-psql-command",
            hint=f"Remove the line. {why}",
        )
