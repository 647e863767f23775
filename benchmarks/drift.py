"""Prints what drift detection and other tools find in the drift corpus, as a table in Markdown.

The other tools are installed in a scratch directory. Each compares the database of the corpus with
a mutated copy of it; `alembic check` compares models, which are the reflected tables of the
database, with that copy. What is not drift are changes that no tool has to know Alembic for, such
as another order of columns. A mutation counts as found if a tool prints anything else than for an
identical copy.
"""

import asyncio
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.children import clean_environment
from benchmarks.table import markdown
from huleedu_tasks.config.urls import DatabaseUrl, parse_url
from huleedu_tasks.schema.diff import compare
from tests.support.drift_corpus import MUTATIONS, SAME, Corpus, new_corpus, schema
from tests.support.monorepo import empty_monorepo, free_ports
from tests.support.postgres import fetch
from tests.support.schemas import HISTORY

SERVICE = "corpus"
OURS = "`prod.drift`"
PYTHON_TOOLS = (
    "migra==3.0.1663481299",
    # The newest that migra works with.
    "sqlalchemy<2",
    "psycopg2-binary",
    # migra imports pkg_resources.
    "setuptools<81",
    "pg-schema-diff==0.2.4",
)
NODE_TOOL = "@pgkit/migra@0.6.1"
ENV_PY = """\
import os

from alembic import context
from sqlalchemy import MetaData, create_engine


def connect(name):
    url = os.environ[name].replace("postgresql:", "postgresql+psycopg2:")
    return create_engine(url).connect()


models = MetaData()
with connect("MODELS_URL") as connection:
    for schema in (None, "shop"):
        models.reflect(connection, schema=schema)
models.remove(models.tables["alembic_version"])
with connect("COPY_URL") as connection:
    context.configure(
        connection=connection,
        target_metadata=models,
        include_schemas=True,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
"""
FILES = {
    "alembic.ini": "[alembic]\nscript_location = .\npath_separator = os\n",
    "env.py": ENV_PY,
}
# The groups of the table, by the first words of a difference.
GROUPS = {
    "column": "columns, defaults, identity, generated",
    "default ": "columns, defaults, identity, generated",
    "sequence": "sequences",
    "constraint": "constraints",
    "index ": "indexes",
    "trigger": "triggers, rules, event triggers",
    "rule": "triggers, rules, event triggers",
    "function": "functions",
    "view": "views, materialized views",
    "materialized view": "views, materialized views",
    "type": "types, domains, collations",
    "domain": "types, domains, collations",
    "collation": "types, domains, collations",
    "privileges": "privileges, default privileges",
    "default privileges": "privileges, default privileges",
    "policy": "policies, row security",
    "row security": "policies, row security",
    "comment": "comments",
    "publication": "publications, statistics",
    "statistics": "publications, statistics",
    "extension": "extensions, schemas",
    "schema": "extensions, schemas",
    "table": "tables, partitions, inheritance",
    "partition": "tables, partitions, inheritance",
}
# The mutations that do not begin with what they are about.
OTHER_GROUPS = {
    "identity dropped": "column",
    "identity by default": "column",
    "row security forced": "policy",
    "inheritance": "table",
    "event trigger": "trigger",
}
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_CRASHED = re.compile(r"^Traceback |^\s+at .*node_modules", re.MULTILINE)
FAILED = "failed"
UNCHANGED = "SELECT 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that compares two databases.

    Attributes:
        name: With its version.
        command: `{expected}` and `{actual}` are the URLs of the databases, without a password.
        cwd: Where it runs.
        only_public: Whether it reads no other schema than `public`, so that the schema of the
            corpus is called `public` for it.
        environment: Its variables, with the same placeholders.
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    only_public: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def compare(self, expected: DatabaseUrl, actual: DatabaseUrl) -> str:
        """Return what it prints about two databases; `FAILED` if it crashes."""
        urls = {"expected": _without_password(expected), "actual": _without_password(actual)}
        done = subprocess.run(
            [part.format(**urls) for part in self.command],
            cwd=self.cwd,
            env={
                **clean_environment(),
                **{name: value.format(**urls) for name, value in self.environment.items()},
                "PGPASSWORD": expected.password.reveal(),
                # Sets are printed in the same order.
                "PYTHONHASHSEED": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if _CRASHED.search(done.stderr):
            return FAILED
        return _ADDRESS.sub("", done.stdout + done.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the tools find.

    Attributes:
        found: The names of the mutations by the name of the tool.
        failed: Those at which it crashed.
        false_alarms: The tools that report changes which are not drift.
    """

    found: Mapping[str, set[str]]
    failed: Mapping[str, set[str]]
    false_alarms: set[str]


def main() -> int:
    """Print the table, and return the exit code."""
    with TemporaryDirectory(prefix="huleedu-drift-") as scratch, empty_monorepo() as monorepo:
        monorepo.add_service(SERVICE, *free_ports(1))
        started = monorepo.invoke_afresh("db.up")
        if started.code:
            sys.stderr.write(started.err)
            return started.code
        url = parse_url(monorepo.url(SERVICE, database="history"), variable="URL")
        tools = installed_tools(Path(scratch))
        judged, server = asyncio.run(_judged(url, tools))
        sys.stdout.write(f"PostgreSQL {server}\n\n{table([tool.name for tool in tools], judged)}")
    return 0


def installed_tools(directory: Path) -> list[Tool]:
    """Install the tools, and return them."""
    environment = directory / "python"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *PYTHON_TOOLS], check=True)
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory)]
    subprocess.run([*npm, NODE_TOOL], check=True, stdout=sys.stderr)
    project = directory / "alembic"
    (project / "versions").mkdir(parents=True)
    for name, text in FILES.items():
        (project / name).write_text(text, encoding="utf-8")
    # Alembic of this environment, whose SQLAlchemy is newer than that of migra, with its driver.
    libraries = directory / "libraries"
    subprocess.run([*pip, "--no-deps", f"--target={libraries}", "psycopg2-binary"], check=True)
    urls = ("{expected}", "{actual}")
    everything = ("--unsafe", "--with-privileges")
    return [
        Tool(
            name=f"`alembic check` {version('alembic')}",
            command=(sys.executable, "-m", "alembic", "check"),
            cwd=project,
            environment={
                "MODELS_URL": "{expected}",
                "COPY_URL": "{actual}",
                "PYTHONPATH": str(libraries),
                "PYTHONSAFEPATH": "1",
            },
        ),
        Tool(
            name="migra 3.0.1663481299",
            command=(str(environment / "bin/migra"), *everything, *urls),
            cwd=directory,
        ),
        Tool(
            name=NODE_TOOL.replace("migra@", "migra "),
            command=(str(directory / "node_modules/.bin/migra"), "run", *urls, *everything),
            cwd=directory,
        ),
        Tool(
            name="pg-schema-diff 0.2.4",
            command=(
                str(environment / "bin/pg-schema-diff"),
                *("diff", "--source", urls[0], "--target", urls[1]),
                *("--format", "json", "--no-step-summary"),
            ),
            cwd=directory,
            only_public=True,
        ),
    ]


def table(tools: Sequence[str], judged: Judged) -> str:
    """Return the table: for each group of mutations, how many each tool finds."""
    names = [OURS, *tools]
    totals = Counter(map(_group, MUTATIONS))
    rows = [
        (group, *(_cell(judged, name, group, total) for name in names))
        for group, total in totals.items()
    ]
    whole = ("**all**", *(_cell(judged, name, "", len(MUTATIONS)) for name in names))
    alarms = ("**false alarm**", *("yes" if n in judged.false_alarms else "no" for n in names))
    return markdown(("mutations of", *names), [*rows, whole, alarms])


def _cell(judged: Judged, tool: str, group: str, total: int) -> str:
    """Return the number of mutations that a tool finds; an empty group stands for all."""
    found, failed = (
        sum(not group or _group(name) == group for name in names)
        for names in (judged.found[tool], judged.failed[tool])
    )
    return f"{found} of {total}" + (f" ({failed} {FAILED})" if failed else "")


def _group(mutation: str) -> str:
    first = OTHER_GROUPS.get(mutation, MUTATIONS[mutation][1])
    begins = [begin for begin in GROUPS if f"{first} ".startswith(begin)]
    return GROUPS[max(begins, key=len)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Corpora:
    """The corpus, and the same with its objects in the schema `public`."""

    corpus: Corpus
    public: Corpus
    tools: Sequence[Tool]

    async def compare(self, script: str) -> dict[str, str]:
        """Return what each tool prints after a script; for ours, the differences."""
        in_shop = [tool for tool in self.tools if not tool.only_public]
        in_public = [tool for tool in self.tools if tool.only_public]
        async with (
            self.corpus.mutated(script) as mutated,
            self.public.mutated(_in_public(script), "mutated_public") as mutated_public,
        ):
            ours = compare(self.corpus.expected, await schema(mutated))
            pairs = [(tool, self.corpus.url, mutated) for tool in in_shop]
            pairs += [(tool, self.public.url, mutated_public) for tool in in_public]
            printed = await asyncio.gather(
                *(asyncio.to_thread(tool.compare, *urls) for tool, *urls in pairs)
            )
        return {
            OURS: "\n".join(map(str, ours)),
            **{tool.name: text for (tool, *_), text in zip(pairs, printed, strict=True)},
        }


async def _judged(url: DatabaseUrl, tools: Sequence[Tool]) -> tuple[Judged, str]:
    corpora = _Corpora(
        corpus=await new_corpus(url),
        public=await new_corpus(_beside(url), _in_public(HISTORY)),
        tools=tools,
    )
    before = await corpora.compare(UNCHANGED)
    same = await corpora.compare(SAME)
    judged = Judged(
        found={name: set() for name in before},
        failed={name: set() for name in before},
        false_alarms={name for name, printed in same.items() if printed != before[name]},
    )
    for mutation, (script, *_) in MUTATIONS.items():
        sys.stderr.write(f"{mutation} ...\n")
        for name, printed in (await corpora.compare(script)).items():
            if printed == FAILED:
                judged.failed[name].add(mutation)
            elif printed != before[name]:
                judged.found[name].add(mutation)
    ((server,),) = await fetch(corpora.corpus.plain_url("postgres"), "SHOW server_version")
    return judged, str(server).partition(" ")[0]


def _in_public(script: str) -> str:
    """Return a script of the corpus whose objects are in the schema `public`."""
    return re.sub(r"\bshop\b", "public", script.replace("CREATE SCHEMA shop;", ""))


def _beside(url: DatabaseUrl) -> DatabaseUrl:
    return replace(url, database=f"{url.database}_public")


def _without_password(url: DatabaseUrl) -> str:
    return f"postgresql://{url.user}@{url.host}:{url.port}/{url.database}"


if __name__ == "__main__":
    sys.exit(main())
