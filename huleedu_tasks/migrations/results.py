"""What a child process with a service's migrations or seeds reports, as values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.migrations.revisions import Revision
from huleedu_tasks.postgres.databases import VersionTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The inputs that a build read.

    Attributes:
        files: Files that were read, and those of loaded modules.
        directories: Directories that were listed.
        statuses: Paths that were only checked, for example with `os.stat`.
        modules: Names of modules that were searched for, by directory.
        addresses: Connections to other servers than the database's: a port and a host, or a path.
        untracked: Inputs that cannot be tracked, each as a clause.
        clocks: Uses of the clock or of random values, each as a clause.
        sessions: The number of connections to the database.
        variables: Environment variables that were read by name.
        all_variables: Whether the whole environment was iterated.
    """

    files: Sequence[str] = ()
    directories: Sequence[str] = ()
    statuses: Sequence[str] = ()
    modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    addresses: Sequence[str] = ()
    untracked: Sequence[str] = ()
    clocks: Sequence[str] = ()
    sessions: int = 0
    variables: Sequence[str] = ()
    all_variables: bool = False

    def __add__(self, other: "Used") -> "Used":
        return Used(
            files=[*self.files, *other.files],
            directories=[*self.directories, *other.directories],
            statuses=[*self.statuses, *other.statuses],
            modules={
                directory: [*self.modules.get(directory, ()), *other.modules.get(directory, ())]
                for directory in {*self.modules, *other.modules}
            },
            addresses=[*self.addresses, *other.addresses],
            untracked=[*self.untracked, *other.untracked],
            clocks=[*self.clocks, *other.clocks],
            sessions=self.sessions + other.sessions,
            variables=[*self.variables, *other.variables],
            all_variables=self.all_variables or other.all_variables,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """The result of a run, as the database records it.

    Attributes:
        before: The revisions before the run.
        after: The revisions after the run.
        reported: The version tables that `env.py` configured; None if Alembic did not run.
        output: The output of Alembic and the service's code.
        used: The inputs; None if the process did not report them.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    reported: "ReportedTables | None" = None
    output: str = ""
    used: Used | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRevisions:
    """The revisions in Alembic's script directory.

    Attributes:
        contradictions: Warnings of Alembic about contradictory files.
        used: The inputs; None if the process did not report them.
    """

    revisions: tuple[Revision, ...]
    contradictions: tuple[str, ...]
    used: Used | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTables:
    """The version tables that a service's `env.py` configures.

    Attributes:
        queried_first: Whether `env.py` queried the database before.
        used: The inputs; None if the process did not report them.
        role: The role that runs revisions; an empty string if it is not known.
        search_path: The schemas of that role's search path.
    """

    tables: tuple[VersionTable, ...]
    queried_first: bool
    used: Used | None
    role: str = ""
    search_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedConnection:
    """The first connection that a service's `env.py` would open; it was not opened.

    Strings are empty if they do not apply.

    Attributes:
        address: Its host and port; empty if `env.py` would not connect.
        database: The name of its database.
        follows: Whether it is to the database of the URL that `env.py` was given.
        driver: The library that would connect.
        complaint: The driver's error about parameters that it does not accept.
        how_to_follow: Which variable `env.py` read instead, and what to change.
        refused: Another address that `env.py` tried to connect to before.
        failure: The error with which `env.py` ended.
    """

    address: str = ""
    database: str = ""
    follows: bool = False
    driver: str = ""
    complaint: str = ""
    how_to_follow: str = ""
    refused: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The SQL of revisions, by their ids.

    Attributes:
        unrendered: Revisions without offline SQL, each with the reason.
        problem: The error of Alembic; an empty string if it succeeded.
        used: The inputs; None if the process did not report them.
    """

    sql: Mapping[str, str]
    unrendered: Mapping[str, str]
    problem: str = ""
    used: Used | None = None


def read_used(report: Path, url: DatabaseUrl | None, *, own_sessions: int = 0) -> Used | None:
    """Return the inputs that a process reported; None if it did not report them.

    Args:
        report: The file that it wrote them to.
        url: The URL of its database; None if it has none.
        own_sessions: The number of sessions that this process opened on the database.
    """
    if not report.exists():
        return None
    facts = json.loads(report.read_bytes())
    places = (f"{url.port} {url.database}" if url else "", "")
    own_port = str(url.port) if url else ""
    sessions = sum(facts["sessions"].get(place, 0) for place in dict.fromkeys(places))
    return Used(
        files=facts["files"],
        directories=facts["directories"],
        statuses=facts["statuses"],
        modules=facts["modules"],
        untracked=facts["untracked"],
        clocks=facts["clocks"],
        addresses=[address for address in facts["addresses"] if address.split()[0] != own_port],
        sessions=sessions + own_sessions,
        variables=facts["variables"],
        all_variables=facts["all_variables"],
    )
