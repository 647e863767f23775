"""Revisions are parsed from files without importing them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.alembic_config import NotUnderstood, version_directories
from huleedu_tasks.migrations.revisions import History, read_history
from tests.support.values import service

Put = Callable[[str, str], Path]
INI = "[alembic]\nscript_location = alembic\n"
VERSIONS = "alembic/versions"
X = "script_location = x\n"


@pytest.fixture
def orders(tmp_path: Path) -> Service:
    (tmp_path / "alembic.ini").write_text(INI)
    return service("orders", directory=tmp_path)


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write a file of the service."""

    def put_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return put_file


@pytest.fixture
def revise(put: Put) -> Callable[..., Path]:
    """Write a revision file."""

    def put_revision(
        name: str, follows: object = None, *, depends_on: object = None, directory: str = VERSIONS
    ) -> Path:
        lines = [
            f'"""Do {name}.\n\nRevision ID: {name}\n"""',
            f"revision = {name!r}",
            f"down_revision = {follows!r}",
            f"depends_on = {depends_on!r}",
            "raise SystemExit('it was run')",
        ]
        return put(f"{directory}/{name}.py", "\n".join(lines))

    return put_revision


Revise = Callable[..., Path]


def findings(service: Service) -> list[tuple[str, str]]:
    with pytest.raises(MigrationError) as caught:
        read_history(service)
    return [(Path(finding.place).name, finding.problem) for finding in caught.value.findings]


def diamond(revise: Revise) -> None:
    """A base, two branches, and their merge: a; b and c; d; e."""
    revise("a")
    revise("b", "a")
    revise("c", "a")
    revise("d", ("b", "c"))
    revise("e", "d")


def test_a_linear_history_has_one_head(orders: Service, revise: Revise) -> None:
    revise("a")
    revise("b", "a")
    history = read_history(orders)
    assert history.heads == ("b",)
    assert history.revisions["b"].parents == ("a",)
    assert history.revisions["b"].message == "Do b."


def test_a_service_without_revisions_has_no_head(orders: Service) -> None:
    (orders.directory / "alembic").mkdir()
    assert read_history(orders).heads == ()


def test_a_script_location_that_is_not_a_directory_is_an_error(orders: Service) -> None:
    with pytest.raises(MigrationError, match=r"/alembic, which is not a directory") as caught:
        read_history(orders)
    assert caught.value.code == "script-location-missing"


def test_a_package_of_scripts_is_found_like_alembic_finds_it(orders: Service) -> None:
    directory = orders.directory / "src/orders/migrations"
    directory.mkdir(parents=True)
    orders.alembic_config.write_text(
        "[alembic]\nscript_location = orders:migrations\nprepend_sys_path = . src\n"
    )
    assert version_directories(orders) == [directory / "versions"]


def test_a_merge_joins_two_branches(orders: Service, revise: Revise) -> None:
    diamond(revise)
    assert read_history(orders).heads == ("e",)


@pytest.mark.parametrize(
    ("current", "pending"),
    [
        ((), 5),
        (("a",), 4),
        (("b",), 3),
        (("b", "c"), 2),
        (("d",), 1),
        (("e",), 0),
        (("made elsewhere",), None),
        (("e", "made elsewhere"), None),
    ],
)
def test_pending_counts_revisions_of_every_branch(
    orders: Service, revise: Revise, current: tuple[str, ...], pending: int | None
) -> None:
    diamond(revise)
    assert read_history(orders).pending(current) == pending


def test_depends_on_counts_as_pending(orders: Service, revise: Revise) -> None:
    revise("a")
    revise("x", "a")
    revise("b", "a", depends_on="x")
    revise("m", ("b", "x"))
    history = read_history(orders)
    assert history.pending(("b",)) == 1
    assert history.pending(("x",)) == 2


@pytest.mark.parametrize(
    ("current", "revision", "past"),
    [
        (("e",), "a", True),
        (("d",), "c", True),
        (("d",), "d", False),
        (("d",), "e", False),
        ((), "a", False),
        (("made elsewhere",), "a", False),
    ],
)
def test_ancestors_of_the_current_revision_are_past(
    orders: Service, revise: Revise, current: tuple[str, ...], revision: str, past: bool
) -> None:
    diamond(revise)
    assert read_history(orders).is_past(current, revision) is past


# The revisions of an upgrade.


def way(service: Service, before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Return the revisions in between, having seen that each comes after what it needs."""
    history = read_history(service)
    found = [revision.id for revision in history.between(before, after)]
    for place, name in enumerate(found):
        needed = history.revisions[name].parents + history.revisions[name].depends_on
        assert not set(needed) & set(found[place:])
    return found


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [
        ((), ("c",), ["a", "b", "c"]),
        ((), ("b",), ["a", "b"]),
        (("a",), ("c",), ["b", "c"]),
        (("b",), ("c",), ["c"]),
        (("c",), ("c",), []),
        (("c",), ("a",), []),
        (("a",), (), []),
        ((), (), []),
    ],
)
def test_a_linear_upgrade_has_parents_first(
    orders: Service,
    revise: Revise,
    before: tuple[str, ...],
    after: tuple[str, ...],
    between: list[str],
) -> None:
    revise("c", "b")
    revise("a")
    revise("b", "a")
    assert way(orders, before, after) == between


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [
        ((), ("e",), {"a", "b", "c", "d", "e"}),
        (("a",), ("d",), {"b", "c", "d"}),
        (("b",), ("e",), {"c", "d", "e"}),
        (("b",), ("c",), {"c"}),
        (("b",), ("b", "c"), {"c"}),
        (("b", "c"), ("d",), {"d"}),
        (("c", "a"), ("e",), {"b", "d", "e"}),
        (("d",), ("b", "c"), set()),
    ],
)
def test_an_upgrade_contains_every_branch_of_a_merge(
    orders: Service,
    revise: Revise,
    before: tuple[str, ...],
    after: tuple[str, ...],
    between: set[str],
) -> None:
    diamond(revise)
    assert set(way(orders, before, after)) == between


def test_an_upgrade_contains_depends_on_before_the_revision(
    orders: Service, revise: Revise
) -> None:
    revise("a")
    revise("b", "a", depends_on="y")
    revise("x", "a")
    revise("y", "x")
    revise("m", ("b", "y"))
    assert way(orders, ("a",), ("b",)) == ["x", "y", "b"]
    assert way(orders, ("b",), ("m",)) == ["m"]
    assert way(orders, ("x",), ("m",)) == ["y", "b", "m"]


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [
        (("made elsewhere",), ("b",), ["a", "b"]),
        (("a", "made elsewhere"), ("b",), ["b"]),
        (("a",), ("made elsewhere",), []),
        ((), ("a", "made elsewhere"), ["a"]),
        (("made elsewhere",), ("gone",), []),
    ],
)
def test_unknown_revisions_are_ignored(
    orders: Service,
    revise: Revise,
    before: tuple[str, ...],
    after: tuple[str, ...],
    between: list[str],
) -> None:
    revise("a")
    revise("b", "a")
    assert way(orders, before, after) == between


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("head", "abd2"),
        ("abc1", "abc1"),
        ("abc", "abc1"),
        ("ab", None),
        ("x", None),
        ("head-1", None),
    ],
)
def test_a_target_is_resolved_as_alembic_resolves_it(
    orders: Service, revise: Revise, target: str, found: str | None
) -> None:
    revise("abc1")
    revise("abd2", "abc1")
    assert read_history(orders).resolve(target) == found


@pytest.mark.parametrize(
    "text",
    [
        'revision: str = "a"\ndown_revision: str | None = None\n',
        'revision: str\nrevision = "a"\ndown_revision = None\n',
        'revision = identifier = "a"\ndown_revision = ()\n',
        '\ufeffrevision = "a"\ndown_revision = []\n',
        '# -*- coding: utf-8 -*-\nrevision = "a"  # å\ndown_revision = None\n',
        'down_revision = "x"\nrevision = "a"\nif True:\n    other = 1\ndown_revision = None\n',
    ],
    ids=["annotated", "annotated before", "two names", "byte order mark", "a coding", "twice"],
)
def test_a_revision_is_read_however_it_is_written(orders: Service, put: Put, text: str) -> None:
    put(f"{VERSIONS}/a.py", text)
    assert read_history(orders).heads == ("a",)


def test_files_that_alembic_ignores_are_ignored(orders: Service, put: Put, revise: Revise) -> None:
    revise("a")
    put(f"{VERSIONS}/__init__.py", "")
    put(f"{VERSIONS}/__init__old.py", "revision = 'b'\ndown_revision = 'a'\n")
    put(f"{VERSIONS}/.#b.py", "revision = 'b'\ndown_revision = 'a'\n")
    put(f"{VERSIONS}/notes.txt", "revision = 'b'")
    put(f"{VERSIONS}/b.py~", "revision = 'b'")
    put(f"{VERSIONS}/below.py/b.py", "revision = 'b'\ndown_revision = 'a'\n")
    (orders.directory / VERSIONS / ".#c.py").symlink_to("an-editor@a-laptop.4711")
    assert set(read_history(orders).revisions) == {"a"}


# Files and configurations that only Alembic can evaluate.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def revision(): ...\n",
        'revision = "b"\n',
        'revision, down_revision = "b", "a"\n',
        '[revision, down_revision] = "b", "a"\n',
        'revision = "b"\ndown_revision = make("a")\n',
        'revision = "b" + "1"\ndown_revision = "a"\n',
        'revision = f"b"\ndown_revision = "a"\n',
        'revision = 5\ndown_revision = "a"\n',
        'revision = "b"\ndown_revision = 5\n',
        'revision = "b"\ndown_revision = "a"\ndepends_on = "a label of a branch"\n',
        'try:\n    revision = "b"\nfinally:\n    down_revision = "a"\n',
        'if True:\n    revision = "b"\ndown_revision = "a"\n',
        'revision = "x"\ndown_revision = "a"\nfor revision in ("b",):\n    pass\n',
        'revision = "x"\ndown_revision = "a"\nwith open("f") as revision:\n    pass\n',
        'revision = "x"\ndown_revision = "a"\nrevision += "b"\n',
        'revision = "x"\ndown_revision = "a"\nprint(revision := "b")\n',
        'revision = "x"\ndown_revision = "a"\nfrom ids import b as revision\n',
        'revision = "x"\ndown_revision = "a"\nfrom ids import *\n',
        'revision = "x"\ndown_revision = "a"\nimport revision\n',
        'revision = "x"\ndown_revision = "a"\nclass revision: ...\n',
        'revision = "x"\ndown_revision = "a"\ndel down_revision\n',
        'revision = "x"\ndown_revision = "a"\nmatch 1:\n    case revision: ...\n',
        'revision = "x"\ndown_revision = "a"\nglobals()["revision"] = "b"\n',
        'revision = "x"\ndown_revision = "a"\nvars()["revision"] = "b"\n',
        'revision = "x"\ndown_revision = "a"\nexec("revision = 2")\n',
        'revision = "x"\ndown_revision = "a"\ndef f():\n    global revision\n    revision = 1\n',
        'revision: str\ndown_revision = "a"\n',
    ],
)
def test_a_file_with_computed_values_is_not_understood(
    orders: Service, put: Put, revise: Revise, text: str
) -> None:
    revise("a")
    put(f"{VERSIONS}/b.py", text)
    with pytest.raises(NotUnderstood):
        read_history(orders)


@pytest.mark.parametrize(
    "options",
    [
        "script_location = orders:migrations",
        "script_location = alembic\nversion_locations = one two",
        "script_location = alembic\nrecursive_version_locations = true",
        "script_location = alembic\nsourceless = true",
    ],
)
def test_an_unusual_configuration_is_not_understood(
    orders: Service, put: Put, revise: Revise, options: str
) -> None:
    revise("a")
    put("alembic.ini", f"[alembic]\n{options}\n")
    with pytest.raises(NotUnderstood):
        read_history(orders)


def test_a_symbolic_link_is_not_understood(orders: Service, revise: Revise) -> None:
    path = revise("a")
    (path.parent / "b.py").symlink_to(path)
    with pytest.raises(NotUnderstood):
        read_history(orders)


def test_a_configuration_in_pyproject_is_not_understood(
    orders: Service, put: Put, revise: Revise
) -> None:
    revise("a")
    put("pyproject.toml", '[tool.alembic]\nversion_locations = ["elsewhere"]\n')
    with pytest.raises(NotUnderstood):
        read_history(orders)


# Broken histories.


def test_two_heads_are_both_named(orders: Service, revise: Revise) -> None:
    revise("a")
    revise("b", "a")
    revise("c", "a")
    assert findings(orders) == [
        ("b.py", "revision b is one of several heads"),
        ("c.py", "revision c is one of several heads"),
    ]


def test_every_missing_parent_is_named(orders: Service, revise: Revise) -> None:
    revise("a", "gone")
    revise("b", ("a", "lost"))
    assert findings(orders) == [
        ("a.py", "has the down_revision gone, which no file defines"),
        ("b.py", "has the down_revision lost, which no file defines"),
    ]


def test_a_cycle_is_named(orders: Service, revise: Revise) -> None:
    revise("a", "b")
    revise("b", "a")
    ((_, problem),) = findings(orders)
    assert problem.startswith("revisions form a cycle: ")


def test_a_cycle_through_depends_on_is_named(orders: Service, revise: Revise) -> None:
    revise("a", depends_on="b")
    revise("b", "a")
    ((_, problem),) = findings(orders)
    assert problem.startswith("revisions form a cycle: ")


def test_every_file_that_cannot_be_parsed_is_named_once(
    orders: Service, put: Put, revise: Revise
) -> None:
    revise("a")
    put(f"{VERSIONS}/c.py", "revision = 'c'\n\ndef upgrade(:\n")
    put(f"{VERSIONS}/d.py", "revision = 'd\n")
    found = dict(findings(orders))
    assert list(found) == ["c.py, line 3", "d.py, line 1"]
    assert all(problem.startswith("is not valid Python: ") for problem in found.values())


def test_a_duplicate_id_is_named(orders: Service, put: Put, revise: Revise) -> None:
    revise("a")
    put(f"{VERSIONS}/b1.py", "revision = 'b'\ndown_revision = 'a'\n")
    put(f"{VERSIONS}/b2.py", "revision = 'b'\ndown_revision = 'a'\n")
    assert findings(orders) == [("b2.py", "revision b is also defined in b1.py")]


# Directories of revisions.


@pytest.mark.parametrize(
    ("options", "directories"),
    [
        ("script_location = alembic", ["alembic/versions"]),
        ("script_location = %(here)s/db", ["db/versions"]),
        ("script_location = package.db:migrations", ["package/db/migrations/versions"]),
        ("script_location = alembic\nversion_locations = one two,three", ["one", "two", "three"]),
        (
            f"{X}path_separator = os\nversion_locations = one{os.pathsep}%(here)s/two",
            ["one", "two"],
        ),
        (
            f"{X}version_path_separator = space\nversion_locations = a,b c",
            ["a,b", "c"],
        ),
        (
            f"{X}path_separator = newline\nversion_locations =\n  one\n  t w o",
            ["one", "t w o"],
        ),
    ],
)
def test_directories_are_those_in_alembic_ini(
    orders: Service, put: Put, options: str, directories: list[str]
) -> None:
    put("alembic.ini", f"[alembic]\n{options}\n")
    assert relative(orders) == directories


@pytest.mark.parametrize(
    ("options", "directories"),
    [
        ('script_location = "db"', ["db/versions"]),
        ('script_location = "%(here)s/db"', ["db/versions"]),
        ('script_location = "x"\nversion_locations = ["one", "%(here)s/two"]', ["one", "two"]),
    ],
)
def test_directories_may_be_in_pyproject(
    orders: Service, put: Put, options: str, directories: list[str]
) -> None:
    put("pyproject.toml", f"[tool.alembic]\n{options}\n")
    put("alembic.ini", "[loggers]\nkeys = root\n")
    assert relative(orders) == directories


def test_alembic_ini_overrides_pyproject(orders: Service, put: Put) -> None:
    put("pyproject.toml", '[tool.alembic]\nscript_location = "elsewhere"\n')
    assert relative(orders) == ["alembic/versions"]


@pytest.mark.parametrize(
    "text", ["", "[alembic]\n", "[alembic\n", "[alembic]\nscript_location = %(x)s"]
)
def test_a_configuration_without_a_location_is_an_error(
    orders: Service, put: Put, text: str
) -> None:
    put("alembic.ini", text)
    with pytest.raises(MigrationError, match=r"has no script_location|could not be read"):
        read_history(orders)


def relative(service: Service) -> list[str]:
    return [str(path.relative_to(service.directory)) for path in version_directories(service)]


# Several version tables.


@pytest.mark.parametrize(
    ("tables", "current"),
    [
        ({}, ()),
        ({"t": ("b",)}, ("b",)),
        ({"t": ("b",), "u": ("b",)}, ("b",)),
        ({"t": ("b",), "u": ("a",)}, ("a",)),
        ({"t": ("a",), "u": ("b",), "v": ()}, ()),
        ({"t": ("b",), "u": ("made elsewhere",)}, ("made elsewhere",)),
    ],
)
def test_the_least_advanced_version_table_is_the_current_revision(
    orders: Service,
    revise: Revise,
    tables: dict[str, tuple[str, ...]],
    current: tuple[str, ...],
) -> None:
    revise("a")
    revise("b", "a")
    assert read_history(orders).least_advanced(tables) == current


def test_a_long_history_is_counted_without_recursion() -> None:
    from huleedu_tasks.migrations.revisions import Revision

    chain = {
        str(number): Revision(
            id=str(number),
            parents=(str(number - 1),) if number else (),
            depends_on=(),
            message="",
            path=Path(),
        )
        for number in range(5000)
    }
    assert History(revisions=chain).pending(()) == 5000
