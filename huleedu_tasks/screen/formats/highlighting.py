"""SQL and diffs with their tokens marked, as escaped HTML."""

from markupsafe import Markup, escape

# Longer texts are shown without colors: a page must open at once.
LONGEST = 40_000
_DIFF_CLASSES = {"+": "added", "-": "removed", "@": "hunk"}


def highlighted_sql(text: str) -> Markup:
    """Return SQL of PostgreSQL with a class for each kind of token."""
    if len(text) > LONGEST:
        return escape(text)
    from pygments import highlight
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers.sql import PostgresLexer

    lexer = PostgresLexer(stripnl=False, ensurenl=False)
    # Pygments escapes the tokens.
    return Markup(highlight(text, lexer, HtmlFormatter(nowrap=True)))


def highlighted_diff(text: str) -> Markup:
    """Return a diff with a class for each added and removed line."""
    lines = (_diff_line(line) for line in text.split("\n"))
    return Markup("\n").join(lines)


def _diff_line(line: str) -> Markup:
    kind = _DIFF_CLASSES.get(line[:1])
    if kind is None:
        return escape(line)
    return Markup('<span class="{}">{}</span>').format(kind, line)
