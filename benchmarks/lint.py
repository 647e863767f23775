"""Prints what `migrations.lint` and squawk find in the lint corpus, as a table in Markdown.

Of each pair it says whether the dangerous operation is found, and whether its safe twin is reported
although it is safe. Rules of squawk about style, and those that every transaction of ours fulfils,
do not count.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.table import markdown
from huleedu_tasks.migrations.squawk import JUDGED_HERE, KINDS, NOT_SQL, find_squawk
from tests.support.lint_corpus import PAIRS, CorpusRevision, revisions, setup
from tests.support.linting import CORPUS_SERVICE, LintedServices, broken_rules
from tests.support.monorepo import empty_monorepo

HEADINGS = ("operation", "rule", "migrations.lint", "safe twin", "squawk", "safe twin")
FOUND, MISSED = "found", "**missed**"
SILENT, FALSE = "", "**reported**"
COUNTED = {*JUDGED_HERE, *KINDS} - {NOT_SQL, "failed"}
# What runs outside of a transaction in our revisions.
ALONE = ("CONCURRENTLY", "VACUUM", "REINDEX SCHEMA", "/* autocommit */")


def main() -> int:
    """Print the table, and return the exit code."""
    corpus = [*revisions()]
    sys.stdout.write(table(corpus, _ours(corpus), squawk_findings(corpus)))
    return 0


def table(corpus: Sequence[CorpusRevision], ours: set[str], squawk: set[str]) -> str:
    """Return the table.

    Args:
        ours: The revisions that `migrations.lint` reports.
        squawk: Those that squawk reports.
    """
    rows = [*_rows(corpus, ours, squawk)]
    return markdown(HEADINGS, [*rows, _totals(rows)])


def squawk_findings(corpus: Sequence[CorpusRevision]) -> set[str]:
    """Return the revisions in which squawk finds a danger."""
    found: set[str] = set()
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for one in corpus:
            (directory / f"{one.id}.sql").write_text(one.sql, encoding="utf-8")
        alone = {one.id for one in corpus if any(word in one.sql for word in ALONE)}
        together = {one.id for one in corpus} - alone
        for names, flags in ((alone, ()), (together, ("--assume-in-transaction",))):
            files = [f"{name}.sql" for name in sorted(names)]
            command = [find_squawk(), "--reporter=json", "--pg-version=15", *flags, *files]
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, check=False
            )
            found |= {
                Path(one["file"]).stem
                for one in json.loads(done.stdout)
                if one["rule_name"] in COUNTED
            }
    return found


def _ours(corpus: Sequence[CorpusRevision]) -> set[str]:
    """Return the revisions that have an error or a warning."""
    with empty_monorepo() as monorepo:
        services = LintedServices(monorepo)
        services.add(CORPUS_SERVICE, *setup())
        services.commit()
        services.revise_with(corpus)
        ran = services.lint("--base", "main")
    return {one.id for one in corpus if broken_rules(ran, one)}


def _rows(
    corpus: Sequence[CorpusRevision], ours: set[str], squawk: set[str]
) -> Iterator[tuple[str, ...]]:
    for pair in PAIRS:
        danger = {one.id for one in corpus if one.pair is pair and one.rule}
        safe = {one.id for one in corpus if one.pair is pair and not one.rule}
        judged = (
            word
            for found in (ours, squawk)
            for word in (FOUND if danger & found else MISSED, FALSE if safe & found else SILENT)
        )
        yield pair.name, f"`{pair.rule}`", *judged


def _totals(rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    counts = (
        f"{sum(row[column] in (FOUND, FALSE) for row in rows)} of {len(rows)}"
        for column in range(2, len(HEADINGS))
    )
    return "**all**", "", *counts


if __name__ == "__main__":
    sys.exit(main())
