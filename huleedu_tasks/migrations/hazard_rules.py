"""The rules by which the statements of a revision are judged, each with a safer recipe.

The documentation explains them. Their names are stable: they are part of suppressions in revision
files.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from huleedu_tasks.report import Kind, Level, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A kind of hazard.

    Attributes:
        name: Its stable name, in kebab-case.
        kind: What the statement does.
        level: How severe it is, on a table that may have rows.
        steps: The safer recipe, in order; empty if there is none.
        remedy: What to do about it, in a sentence; an empty string if the steps say it.
    """

    name: str
    kind: Kind
    level: Level
    steps: tuple[str, ...] = ()
    remedy: str = ""

    def problem(
        self, cause: str, *, level: Level | None = None, steps: tuple[str, ...] = ()
    ) -> Problem:
        """Return a finding of this rule.

        Args:
            level: Its severity; None for that of the rule.
            steps: The recipe for this statement; empty for that of the rule.
        """
        return Problem(
            level=level or self.level,
            cause=cause,
            remedy=self.remedy,
            steps=steps or self.steps,
            code=self.name,
            kind=self.kind,
        )


_IN_BATCHES = "Change the rows in batches, each in a transaction of its own, outside of a revision."
_IN_A_LATER_REVISION = (
    "in a later revision, that another run applies or `transaction_per_migration=True` separates"
)

DROPS_COLUMN = Rule(
    name="drops-column",
    kind=Kind.DESTROYS,
    level=Level.ERROR,
    steps=(
        "Deploy code that neither reads nor writes the column.",
        "Take a backup: only that restores the values.",
        "Drop the column in a later release, with a suppression that states why it is unused.",
    ),
)
DROPS_TABLE = Rule(
    name="drops-table",
    kind=Kind.DESTROYS,
    level=Level.ERROR,
    steps=(
        "Deploy code that neither reads nor writes the table.",
        "Take a backup: only that restores the rows.",
        "Drop the table in a later release, with a suppression that states why it is unused.",
    ),
)
DROPS_OBJECT = Rule(
    name="drops-object",
    kind=Kind.DESTROYS,
    level=Level.WARNING,
    steps=(
        "Deploy code that no longer uses it.",
        "Drop it in a later release.",
    ),
)
TRUNCATES_TABLE = Rule(
    name="truncates-table",
    kind=Kind.DESTROYS,
    level=Level.ERROR,
    steps=(
        "Take a backup: only that restores the rows.",
        "Delete the rows that are no longer needed, in batches, outside of a revision.",
    ),
)
DELETES_ALL_ROWS = Rule(
    name="deletes-all-rows",
    kind=Kind.DESTROYS,
    level=Level.ERROR,
    steps=(
        "Take a backup: only that restores the rows.",
        "Delete the rows that are no longer needed, in batches, outside of a revision.",
    ),
)
UPDATES_ALL_ROWS = Rule(
    name="updates-all-rows",
    kind=Kind.LOCKS,
    level=Level.WARNING,
    steps=(_IN_BATCHES,),
)
REWRITES_TABLE = Rule(
    name="rewrites-table",
    kind=Kind.LOCKS,
    level=Level.ERROR,
    steps=(
        "Add a new column of the new form, without a default that is computed for each row.",
        "Let a trigger or the code fill it for new and changed rows.",
        "Fill the other rows in batches, outside of a revision.",
        "Let the code read the new column, and drop the old one in a later release.",
    ),
)
SCANS_TABLE = Rule(
    name="scans-table-under-lock",
    kind=Kind.LOCKS,
    level=Level.ERROR,
    steps=(
        "Find the part of the statement that must read all rows.",
        f"Run it {_IN_A_LATER_REVISION}, in a form that takes a weaker lock.",
    ),
)
HOLDS_LOCK = Rule(
    name="holds-lock",
    kind=Kind.LOCKS,
    level=Level.WARNING,
    steps=(
        "Leave only the statement that takes the lock in this revision.",
        f"Run the long statement {_IN_A_LATER_REVISION}.",
    ),
)
LOCKS_SEVERAL_TABLES = Rule(
    name="locks-several-tables",
    kind=Kind.LOCKS,
    level=Level.WARNING,
    steps=(
        "Write a revision for each table.",
        "Apply them in separate transactions: `transaction_per_migration=True` in env.py.",
    ),
)
TAKES_STRONG_LOCK = Rule(
    name="takes-strong-lock",
    kind=Kind.LOCKS,
    level=Level.INFO,
    remedy="It is short, but waits for every transaction that uses the table. `prod.migrate` sets "
    "lock_timeout; keep the transaction short.",
)
RENAMES_TABLE = Rule(
    name="renames-table",
    kind=Kind.OTHER,
    level=Level.ERROR,
    steps=(
        "Rename the table, and create a view with the old name in the same revision.",
        "Deploy code that uses the new name.",
        "Drop the view in a later release.",
    ),
)
RENAMES_COLUMN = Rule(
    name="renames-column",
    kind=Kind.OTHER,
    level=Level.ERROR,
    steps=(
        "Add a column with the new name.",
        "Keep both filled: let the code write both, and fill the rows in batches.",
        "Let the code read the new one, and drop the old one in a later release.",
    ),
)
RENAMES_OBJECT = Rule(
    name="renames-object",
    kind=Kind.OTHER,
    level=Level.WARNING,
    steps=(
        "Create a second one with the new name.",
        "Deploy code that uses it.",
        "Drop the old one in a later release.",
    ),
)
MOVES_TABLE = Rule(
    name="moves-table",
    kind=Kind.OTHER,
    level=Level.ERROR,
    steps=(
        "Move the table, and create a view in the old schema in the same revision.",
        "Deploy code that uses the new schema.",
        "Drop the view in a later release.",
    ),
)
ADDS_REQUIRED_COLUMN = Rule(
    name="adds-required-column",
    kind=Kind.OTHER,
    level=Level.ERROR,
    steps=(
        "Add the column with a server default, which rewrites no rows if it is constant.",
        "Or add it nullable, fill it in batches, and make it NOT NULL in a later release.",
    ),
)
LEAVES_INVALID_INDEX = Rule(
    name="leaves-invalid-index",
    kind=Kind.OTHER,
    level=Level.ERROR,
    steps=(
        "Drop the index: `DROP INDEX CONCURRENTLY IF EXISTS`, in an autocommit_block().",
        "Correct the cause, such as rows that are not unique.",
        "Build it again, concurrently. With IF NOT EXISTS the invalid one would remain.",
    ),
)
COMMITS_EARLY = Rule(
    name="commits-early",
    kind=Kind.OTHER,
    level=Level.WARNING,
    steps=(
        "Write a revision of its own for the statements that are committed.",
        "Or write them so that they may be repeated, such as with IF NOT EXISTS.",
    ),
)
UPGRADE_FAILED = Rule(
    name="upgrade-failed",
    kind=Kind.OTHER,
    level=Level.ERROR,
    remedy="Correct upgrade() in the file.",
)

# Recipes for statements that read a whole table, which their SQL tells apart.
NOT_NULL_STEPS = (
    "ADD CONSTRAINT ... CHECK (the column IS NOT NULL) NOT VALID.",
    f"VALIDATE CONSTRAINT {_IN_A_LATER_REVISION}: it blocks neither reads nor writes.",
    "SET NOT NULL, which then does not read the table, and drop the constraint.",
)
CONSTRAINT_STEPS = (
    "Add the constraint NOT VALID: `postgresql_not_valid=True`.",
    f"VALIDATE CONSTRAINT {_IN_A_LATER_REVISION}: it blocks neither reads nor writes.",
)
UNIQUE_STEPS = (
    "Build a unique index concurrently: `postgresql_concurrently=True`, in an autocommit_block().",
    "In a later revision, ADD CONSTRAINT ... UNIQUE or PRIMARY KEY USING INDEX.",
)
EXCLUDE_STEPS = ("Add the constraint while the service does not write: it cannot be NOT VALID.",)
INDEX_STEPS = (
    "Build the index concurrently: `postgresql_concurrently=True`, in an autocommit_block().",
    "If that fails, drop the invalid index before you repeat it.",
)
REINDEX_STEPS = ("Rebuild it concurrently: REINDEX ... CONCURRENTLY, in an autocommit_block().",)
PARTITION_STEPS = (
    "Add a CHECK constraint with the partition's bounds NOT VALID to the table to be attached.",
    f"VALIDATE CONSTRAINT {_IN_A_LATER_REVISION}.",
    "ATTACH PARTITION, which then does not read the table, and drop the constraint.",
)
VALIDATE_STEPS = (
    "Leave only the statements that take the lock in this revision.",
    f"VALIDATE CONSTRAINT {_IN_A_LATER_REVISION}: alone, it blocks neither reads nor writes.",
)

# Recipes for statements that rewrite a table.
REFRESH_STEPS = (
    "Create a unique index on the materialized view.",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY, outside of a revision.",
)
REORDER_STEPS = ("Run pg_repack or pg_squeeze, outside of a revision.",)
LOGGED_STEPS = (
    "Create a new table with the same columns, LOGGED or UNLOGGED as you need it.",
    "Copy the rows in batches, outside of a revision, while the code writes both.",
    "Rename both tables in one revision.",
)
DEFAULT_STEPS = (
    "Add the column without the default.",
    "Set the default in the same revision: it then applies to new rows only.",
    "Fill the other rows in batches, outside of a revision.",
)
GENERATED_STEPS = (
    "Add a plain column without a default.",
    "Let a trigger or the code fill it for new and changed rows.",
    "Fill the other rows in batches, outside of a revision.",
)

# The recipes of a rule besides its own, each with the statements that it is for.
RECIPES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    SCANS_TABLE.name: {
        "SET NOT NULL": NOT_NULL_STEPS,
        "A CHECK or a foreign key": CONSTRAINT_STEPS,
        "VALIDATE CONSTRAINT in the transaction that adds it": VALIDATE_STEPS,
        "UNIQUE or PRIMARY KEY": UNIQUE_STEPS,
        "EXCLUDE": EXCLUDE_STEPS,
        "CREATE INDEX": INDEX_STEPS,
        "REINDEX": REINDEX_STEPS,
        "ATTACH PARTITION": PARTITION_STEPS,
    },
    REWRITES_TABLE.name: {
        "A column with a default that is computed for each row": DEFAULT_STEPS,
        "A generated, serial or identity column": GENERATED_STEPS,
        "SET LOGGED or SET UNLOGGED": LOGGED_STEPS,
        "REFRESH MATERIALIZED VIEW": REFRESH_STEPS,
        "CLUSTER or VACUUM FULL": REORDER_STEPS,
    },
}
RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        DROPS_TABLE,
        DROPS_COLUMN,
        TRUNCATES_TABLE,
        DELETES_ALL_ROWS,
        REWRITES_TABLE,
        SCANS_TABLE,
        RENAMES_TABLE,
        RENAMES_COLUMN,
        MOVES_TABLE,
        ADDS_REQUIRED_COLUMN,
        LEAVES_INVALID_INDEX,
        UPGRADE_FAILED,
        DROPS_OBJECT,
        RENAMES_OBJECT,
        UPDATES_ALL_ROWS,
        HOLDS_LOCK,
        LOCKS_SEVERAL_TABLES,
        COMMITS_EARLY,
        TAKES_STRONG_LOCK,
    )
}
# What only the text of a statement shows, because the tables of a throwaway database are empty.
NOT_OBSERVED = frozenset(rule.name for rule in (DELETES_ALL_ROWS, UPDATES_ALL_ROWS))
# Findings about the suppressions in revision files.
UNUSED_SUPPRESSION = Rule(
    name="suppression-unused",
    kind=Kind.STYLE,
    level=Level.WARNING,
    remedy="Delete the comment, or write it above the statement that it is for.",
)
SUPPRESSION_WITHOUT_REASON = Rule(
    name="suppression-without-reason",
    kind=Kind.STYLE,
    level=Level.WARNING,
    remedy="Write the reason after two dashes: `# huleedu: allow RULE -- REASON`.",
)
UNKNOWN_SUPPRESSION = Rule(
    name="suppression-unknown",
    kind=Kind.STYLE,
    level=Level.WARNING,
    remedy="Write it as `# huleedu: allow RULE -- REASON`, with a rule that a finding shows in "
    "brackets.",
)
SUPPRESSION_RULES = (UNUSED_SUPPRESSION, SUPPRESSION_WITHOUT_REASON, UNKNOWN_SUPPRESSION)
# The findings of squawk have these before the names of its rules.
SQUAWK_PREFIX = "squawk-"
