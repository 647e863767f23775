"""Comments in a revision file that allow a finding, each with its reason.

    # huleedu: allow drops-column -- not read since release 41
    op.drop_column("note", "body")

A comment holds for the statement that it is in, or that follows it; one that is not indented holds
for the whole file.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huleedu_tasks.migrations import hazard_rules as rules
from huleedu_tasks.report import Level, Problem

_COMMENT = re.compile(r"#\s*huleedu\s*:\s*(?P<text>.*)")
_ALLOW = re.compile(r"allow\s+(?P<rules>[\w-]+(\s*,\s*[\w-]+)*)\s*(?P<rest>.*)")
_REASON = re.compile(r"--\s*(?P<reason>\S.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """A comment that allows findings.

    Attributes:
        line: The line of the comment, from 1.
        text: What it says behind `huleedu:`.
        rules: The names of the rules that it allows; empty if it cannot be read.
        reason: Why; an empty string if it states none.
        scope: The lines of the statement that it holds for; None for the whole file.
    """

    line: int
    text: str
    rules: tuple[str, ...]
    reason: str
    scope: range | None

    def allows(self, problem: Problem) -> bool:
        """Whether it is for a finding. A finding without a line may be anywhere in the file."""
        is_here = self.scope is None or problem.line is None or problem.line in self.scope
        return bool(self.reason) and problem.code in self.rules and is_here


def suppress(
    problems: Iterable[Problem], path: Path, *, is_complete: bool = True
) -> tuple[Problem, ...]:
    """Return the findings of a revision, with those that its file allows as information.

    A suppression that is not understood, has no reason, or allows nothing is a finding too.

    Args:
        problems: The findings, with the lines of their statements.
        path: The revision file.
        is_complete: Whether the whole revision was judged, so that a suppression without a finding
            is known to be unused.
    """
    suppressions = read_suppressions(path)
    if not suppressions:
        return tuple(problems)
    used: set[tuple[int, str]] = set()
    judged: list[Problem] = []
    for problem in problems:
        allowing = [one for one in suppressions if one.allows(problem)]
        used |= {(one.line, problem.code) for one in allowing}
        judged.append(_allowed(problem, allowing[0]) if allowing else problem)
    for suppression in suppressions:
        judged += (
            fault
            for fault in _faults(suppression, used)
            if is_complete or fault.code != rules.UNUSED_SUPPRESSION.name
        )
    return tuple(judged)


def read_suppressions(path: Path) -> tuple[Suppression, ...]:
    """Return the suppressions of a revision file; empty if it is not valid Python."""
    try:
        source = path.read_bytes()
        comments = [*_comments(source)]
        statements = _statements(ast.parse(source)) if comments else []
    except (OSError, SyntaxError, ValueError, tokenize.TokenError):
        return ()
    return tuple(_suppression(text, line, column, statements) for text, line, column in comments)


def _comments(source: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield each of our comments, with its line and column."""
    if b"huleedu" not in source:
        return
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT and (found := _COMMENT.fullmatch(token.string)):
            yield found["text"].strip(), *token.start


def _statements(tree: ast.Module) -> list[range]:
    """Return the lines of each statement inside of a function, outer ones first."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    nodes = [
        node
        for function in functions
        for part in function.body
        for node in ast.walk(part)
        if isinstance(node, ast.stmt)
    ]
    return [range(node.lineno, (node.end_lineno or node.lineno) + 1) for node in nodes]


def _suppression(text: str, line: int, column: int, statements: Sequence[range]) -> Suppression:
    allow = _ALLOW.fullmatch(text)
    reason = _REASON.fullmatch(allow["rest"]) if allow else None
    return Suppression(
        line=line,
        text=text,
        rules=tuple(re.split(r"\s*,\s*", allow["rules"])) if allow else (),
        reason=reason["reason"].strip() if reason else "",
        scope=_scope(line, statements) if column else None,
    )


def _scope(line: int, statements: Sequence[range]) -> range:
    """Return the lines of the statement that a line is in, or else of the next one."""
    around = [lines for lines in statements if line in lines]
    innermost = min(around, key=len, default=None)
    behind = [lines for lines in statements if lines.start > line]
    if innermost is None or any(lines.start in innermost for lines in behind):
        # Between statements, perhaps in a block; an outer statement is before those in it.
        first = min((lines.start for lines in behind), default=line)
        following = [lines for lines in behind if lines.start == first]
        return max(following, key=len, default=range(line, line + 1))
    return innermost


def _allowed(problem: Problem, suppression: Suppression) -> Problem:
    return replace(
        problem,
        level=Level.INFO,
        cause=f"{problem.cause} (allowed: {suppression.reason})",
        remedy="",
        steps=(),
    )


def _faults(suppression: Suppression, used: set[tuple[int, str]]) -> Iterator[Problem]:
    for problem in _faults_of(suppression, used):
        yield replace(problem, line=suppression.line)


def _faults_of(suppression: Suppression, used: set[tuple[int, str]]) -> Iterator[Problem]:
    if not suppression.rules:
        yield rules.UNKNOWN_SUPPRESSION.problem(
            f"the comment is not understood: # huleedu: {suppression.text}"
        )
        return
    unknown = [name for name in suppression.rules if not _is_known(name)]
    for name in unknown:
        yield rules.UNKNOWN_SUPPRESSION.problem(f"the suppression has an unknown rule: {name}")
    if not suppression.reason:
        yield rules.SUPPRESSION_WITHOUT_REASON.problem(
            f"the suppression of {', '.join(suppression.rules)} has no reason, so it allows nothing"
        )
        return
    for name in suppression.rules:
        if name not in unknown and (suppression.line, name) not in used:
            yield rules.UNUSED_SUPPRESSION.problem(
                f"the suppression of {name} allows nothing: there is no such finding"
            )


def _is_known(name: str) -> bool:
    return name in rules.RULES or name.startswith(rules.SQUAWK_PREFIX)
