"""`services.json`: its fields, their defaults, and its errors."""

import json
import string
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from huleedu_tasks.config.registry import (
    Registry,
    find_registry,
    load_registry,
    migrating_order,
    schema,
    seeding_predecessors,
)
from huleedu_tasks.errors import ConfigurationError, ExitCode
from tests.support.monorepo import PROJECT
from tests.support.values import service

Write = Callable[..., Path]
A = {"name": "a", "port": 1}
B = {"name": "b", "port": 2}

SERVICES_OF_THE_CONTRACT = """
essay_lifecycle     services/essay_lifecycle_service     huleedu_essay_lifecycle     5433
cj_assessment       services/cj_assessment_service       huleedu_cj_assessment       5434
class_management    services/class_management_service    huleedu_class_management    5435
result_aggregator   services/result_aggregator_service   huleedu_result_aggregator   5436
spellchecker        services/spellchecker_service        huleedu_spellchecker        5437
batch_orchestrator  services/batch_orchestrator_service  huleedu_batch_orchestrator  5438
file_service        services/file_service                huleedu_file_service        5439
nlp                 services/nlp_service                 huleedu_nlp                 5440
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a registry with one entry in each line, the first in line 2."""

    def write_entries(*entries: object) -> Path:
        path = tmp_path / "services.json"
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        path.write_text(f'{{"services": [\n{lines}\n]}}')
        return path

    return write_entries


def failure(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_registry(path)
    return caught.value


def findings(path: Path) -> list[str]:
    return [str(finding) for finding in failure(path).findings]


# Fields and defaults.


def test_a_name_and_a_port_are_enough(write: Write, tmp_path: Path) -> None:
    (orders,) = load_registry(write({"name": "orders", "port": 5433})).services
    assert orders == service("orders", directory=tmp_path / "services/orders_service")


def test_every_field_can_be_set(write: Write, tmp_path: Path) -> None:
    entry = {
        "name": "batch_conductor",
        "port": 6001,
        "directory": "backend/conductor",
        "database": "Batches of today",
        "testing_database": "Batches of a test",
        "url_variable": "BCS_DATABASE_URL",
        "alembic_config": "config/migrations.ini",
        "python": ["uv", "run", "python"],
        "environment": {"ENVIRONMENT": "development"},
        "compose_service": "shared_postgres",
        "volume": "pgdata",
        "extensions": ["pg_trgm", "uuid-ossp"],
        "seeds": ["seeds/first.sql", "seeds/then.py"],
        "seed_after": ["a"],
    }
    _, conductor = load_registry(write(A, entry)).services
    assert conductor == service(
        "batch_conductor",
        port=6001,
        directory=tmp_path / "backend/conductor",
        database="Batches of today",
        testing_database="Batches of a test",
        url_variable="BCS_DATABASE_URL",
        alembic_config=tmp_path / "backend/conductor/config/migrations.ini",
        python=("uv", "run", "python"),
        environment={"ENVIRONMENT": "development"},
        compose_service="shared_postgres",
        volume="pgdata",
        extensions=("pg_trgm", "uuid-ossp"),
        seeds=(tmp_path / "seeds/first.sql", tmp_path / "seeds/then.py"),
        seed_after=("a",),
    )


@pytest.mark.parametrize(
    ("stated", "field", "value"),
    [
        ({"directory": "services/file_service"}, "url_variable", "FILE_SERVICE_DATABASE_URL"),
        ({"directory": "apps/my-orders.v2"}, "url_variable", "MY_ORDERS_V2_DATABASE_URL"),
        ({"compose_service": "shared"}, "volume", "shared_data"),
        ({"python": ".venv/bin/python"}, "python", (".venv/bin/python",)),
        ({"port": 5433.0}, "port", 5433),
        ({}, "testing_database", "huleedu_orders_test"),
        ({"database": "orders"}, "testing_database", "orders_test"),
    ],
)
def test_defaults_follow_from_the_other_fields(
    write: Write, stated: Mapping[str, Any], field: str, value: object
) -> None:
    (orders,) = load_registry(write({"name": "orders", "port": 5433, **stated})).services
    found = getattr(orders, field)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("suffix", [".py", ".sql"])
def test_a_seed_with_the_default_name_is_found_if_it_exists(
    write: Write, tmp_path: Path, suffix: str
) -> None:
    directory = tmp_path / "database/seed-scripts"
    directory.mkdir(parents=True)
    seed = directory / f"seed_a{suffix}"
    seed.touch()
    a, b = load_registry(write(A, B)).services
    assert (a.seeds, b.seeds) == ((seed,), ())


def test_an_empty_list_of_seeds_means_none(write: Write, tmp_path: Path) -> None:
    directory = tmp_path / "database/seed-scripts"
    directory.mkdir(parents=True)
    (directory / "seed_a.py").touch()
    (a,) = load_registry(write({**A, "seeds": []})).services
    assert a.seeds == ()


def test_this_monorepo_has_the_eight_services_of_the_contract() -> None:
    registry = load_registry(PROJECT / "services.json")
    found = [
        [
            service.name,
            str(service.directory.relative_to(PROJECT)),
            service.database,
            str(service.port),
        ]
        for service in registry.services
    ]
    assert found == [line.split() for line in SERVICES_OF_THE_CONTRACT.split("\n") if line]
    assert {(s.compose_service, s.volume) for s in registry.services} == {
        (f"{s.name}_db", f"{s.name}_db_data") for s in registry.services
    }
    assert [finding for service in registry.services for finding in service.missing_files()] == []


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,12}", fullmatch=True)
VARIABLES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
ENTRY = st.fixed_dictionaries(
    {"name": NAMES, "port": st.integers(1, 65535), "url_variable": VARIABLES},
    optional={
        "database": st.text(string.ascii_letters + "-_. åß%", min_size=1, max_size=20),
        "python": TEXTS | st.lists(TEXTS, min_size=1, max_size=3),
        "environment": st.dictionaries(VARIABLES, TEXTS, max_size=3),
        "volume": TEXTS,
        "extensions": st.lists(TEXTS, unique=True, max_size=3),
    },
)


@given(
    st.lists(
        ENTRY,
        min_size=1,
        max_size=5,
        unique_by=(
            lambda entry: entry["name"],
            lambda entry: entry["port"],
            lambda entry: entry["url_variable"],
        ),
    )
)
def test_any_valid_registry_is_accepted(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    path = tmp_path / "services.json"
    path.write_text(json.dumps({"services": entries}, ensure_ascii=False), encoding="utf-8")
    read = load_registry(path).services
    for entry, found in zip(entries, read, strict=True):
        for field, stated in entry.items():
            as_read = getattr(found, field)
            assert as_read in (stated, (stated,), tuple(stated) if stated != as_read else as_read)


@pytest.mark.parametrize(
    ("stated", "interpreter"),
    [
        (".venv/bin/alembic", (".venv/bin/python",)),
        (["pdm", "run", "alembic"], ("pdm", "run", "python")),
        (["uv", "run", "--no-sync", "alembic"], ("uv", "run", "--no-sync", "python")),
        (["nice", "/opt/orders/bin/alembic"], ("nice", "/opt/orders/bin/python")),
    ],
)
def test_the_interpreter_is_beside_the_stated_alembic(
    write: Write, stated: object, interpreter: tuple[str, ...]
) -> None:
    path = write({**A, "alembic": stated})
    assert load_registry(path).services[0].python == interpreter


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"alembic": "alembic"}, "does not locate the program"),
        ({"alembic": "./migrate.sh"}, "must end with the program 'alembic'"),
        ({"alembic": ["pdm", "run", "alembic", "upgrade"]}, "not 'upgrade'"),
        ({"alembic": ".venv/bin/alembic", "python": "python3"}, "keep one"),
    ],
)
def test_an_alembic_without_a_known_interpreter_is_refused_with_its_place(
    write: Write, fields: dict[str, object], problem: str
) -> None:
    found = findings(write({**A, **fields}))
    assert any(
        text.startswith("line 2, services[0].alembic: ") and problem in text for text in found
    )


# Finding it, and finding services in it.


def test_the_registry_is_found_from_any_directory_below(write: Write, tmp_path: Path) -> None:
    path = write(A)
    below = tmp_path / "services/a_service/alembic"
    below.mkdir(parents=True)
    assert find_registry(below, "") == path


def test_a_stated_registry_may_be_relative_and_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "databases.json"
    path.touch()
    assert find_registry(tmp_path, "databases.json") == path


@pytest.mark.parametrize(
    ("explicit", "named"),
    [("", "services.json was not found in"), ("nowhere.json", "HULEEDU_REGISTRY names")],
)
def test_a_missing_registry_is_an_error_with_the_searched_directory(
    tmp_path: Path, explicit: str, named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        find_registry(tmp_path, explicit)
    assert str(tmp_path / explicit) in caught.value.message
    assert "registry" in caught.value.hint.lower()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([], ["class_management", "file_service"]),
        (["class_management"], ["class_management"]),
        (["class_management_service"], ["class_management"]),
        (["file_service", "class_management"], ["class_management", "file_service"]),
        (["class_management", "class_management_service"], ["class_management"]),
    ],
)
def test_services_are_found_by_name_or_directory_in_the_order_of_the_file(
    write: Write, asked: list[str], found: list[str]
) -> None:
    assert [service.name for service in two_services(write).select(asked)] == found


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("clas_management", "Did you mean 'class_management'?"),
        ("xyz", "Known: class_management, file_service."),
    ],
)
def test_an_unknown_service_is_an_error_that_helps(write: Write, asked: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{asked}'") as caught:
        two_services(write).select([asked, "file_service"])
    assert (caught.value.hint, caught.value.exit_code) == (hint, ExitCode.USAGE)


def two_services(write: Write) -> Registry:
    return load_registry(
        write(
            {"name": "class_management", "port": 5435},
            {"name": "file_service", "port": 5439, "directory": "services/file_service"},
        )
    )


# Errors.


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        (
            [A, {**B, "portt": 3}],
            "line 3, services[1]: unknown key 'portt'. Did you mean 'port'?",
        ),
        ([{"port": 1}], "line 2, services[0]: 'name' is missing"),
        ([{"name": "a"}], "line 2, services[0]: 'port' is missing"),
        (
            [{"name": "a", "port": "1"}],
            'line 2, services[0].port: must be an integer, not "1"',
        ),
        (
            [{"name": "a", "port": True}],
            "line 2, services[0].port: must be an integer, not true",
        ),
        ([A, "b"], 'line 3, services[1]: must be an object, not "b"'),
        ([{**A, "seeds": "a.sql"}], 'line 2, services[0].seeds: must be a list, not "a.sql"'),
        (
            [{**A, "environment": {"X": 1}}],
            "line 2, services[0].environment.X: must be a string, not 1",
        ),
        ([A, {**A, "port": 2}], "line 3, services[1].name: 'a' belongs to 'a' already"),
        (
            [A, {**B, "port": 1}],
            "line 3, services[1].port: 1 belongs to 'a' already; if the two share one server, "
            "state the same 'compose_service' for both",
        ),
        (
            [{**A, "url_variable": "X"}, {**B, "url_variable": "X"}],
            "line 3, services[1].url_variable: 'X' belongs to 'a' already",
        ),
        (
            [{**A, "compose_service": "shared"}, {**B, "compose_service": "shared"}],
            "line 3, services[1].compose_service: 'shared' belongs to 'a' already",
        ),
        (
            [
                {**A, "port": 1, "compose_service": "shared", "database": "x"},
                {**B, "port": 1, "compose_service": "shared", "database": "x"},
            ],
            "line 3, services[1].database: 'x' belongs to 'a' already; state "
            '"shared_database": true for each service with a history in it; any other service '
            "needs a database of its own",
        ),
        (
            [A, {**B, "seed_after": ["aa"]}],
            "line 3, services[1].seed_after[0]: no service is named 'aa'. Did you mean 'a'?",
        ),
    ],
)
def test_every_error_has_its_place(write: Write, entries: list[object], finding: str) -> None:
    assert findings(write(*entries)) == [finding]


def test_a_directory_belongs_to_one_service(write: Write, tmp_path: Path) -> None:
    shared = {"directory": "services/one"}
    second = {**B, **shared, "url_variable": "X"}
    place = "line 3, services[1].directory"
    assert findings(write({**A, **shared}, second)) == [
        f"{place}: '{tmp_path}/services/one' belongs to 'a' already"
    ]


def test_two_services_may_share_a_server_that_both_state(write: Write) -> None:
    shared = {"port": 1, "compose_service": "shared"}
    services = load_registry(write({**A, **shared}, {**B, **shared})).services
    assert [(service.port, service.volume) for service in services] == [(1, "shared_data")] * 2


def test_services_may_state_that_they_share_a_database(write: Write) -> None:
    shared = {
        "port": 1,
        "compose_service": "shared",
        "database": "x",
        "shared_database": True,
        "url_variable": "DATABASE_URL",
    }
    a, b = load_registry(write({**A, **shared}, {**B, **shared, "migrate_after": ["a"]})).services
    assert (a.shared_database, b.migrate_after) == (True, ("a",))
    assert [service.name for service in migrating_order((b, a))] == ["a", "b"]


def test_a_variable_of_two_databases_is_refused_although_both_may_be_shared(write: Write) -> None:
    shared = {"port": 1, "compose_service": "s", "shared_database": True, "url_variable": "URL"}
    (finding,) = findings(write({**A, **shared}, {**B, **shared}))
    assert "services[1].url_variable: 'URL' belongs to 'a' already" in finding


SHARED = {"port": 1, "compose_service": "s"}
SAME = {**SHARED, "database": "x", "shared_database": True}


@pytest.mark.parametrize(
    ("first", "second", "finding"),
    [
        (
            {**A, **SHARED, "database": "x"},
            {**B, **SHARED, "database": "x_test"},
            "the testing database 'x_test' of 'a' is the database of 'b'; state another "
            "'testing_database' for 'a'",
        ),
        (
            {**A, **SHARED, "database": "x_test"},
            {**B, **SHARED, "database": "x"},
            "the testing database 'x_test' of 'b' is the database of 'a'; state another "
            "'testing_database' for 'b'",
        ),
        (
            {**A, **SHARED, "testing_database": "tests"},
            {**B, **SHARED, "testing_database": "tests"},
            "the testing database 'tests' of 'b' is the testing database of 'a'; state another "
            "'testing_database' for 'b'",
        ),
        (
            {**A, **SAME},
            {**B, **SAME, "testing_database": "y"},
            "is 'y', and 'x_test' for 'a', which shares its database; state the same for both",
        ),
    ],
)
def test_a_testing_database_belongs_to_no_other_service(
    write: Write, first: object, second: object, finding: str
) -> None:
    error = failure(write(first, second))
    assert [found.problem for found in error.findings] == [finding]
    assert [found.code for found in error.findings] == ["testing-database-clash"]
    assert [found.place for found in error.findings] == ["line 3, services[1].testing_database"]


def test_a_testing_database_of_one_server_does_not_concern_another(write: Write) -> None:
    a, b = load_registry(write({**A, "database": "x"}, {**B, "database": "x_test"})).services
    assert a.testing_database == b.database


def test_services_share_their_testing_database_as_well(write: Write) -> None:
    a, b = load_registry(write({**A, **SAME}, {**B, **SAME})).services
    assert a.testing_database == b.testing_database == "x_test"


def test_testing_may_share_the_database_of_development(write: Write) -> None:
    (a,) = load_registry(write({**A, "database": "x", "testing_database": "x"})).services
    assert not a.has_testing_database


@pytest.mark.parametrize(("name", "is_valid"), [("x" * 58, True), ("x" * 59, False)])
def test_a_testing_database_has_63_bytes_at_most(write: Write, name: str, is_valid: bool) -> None:
    if is_valid:
        assert load_registry(write({**A, "database": name}))
        return
    (found,) = failure(write({**A, "database": name})).findings
    assert found.code == "testing-database-too-long"
    assert "has 64 bytes" in found.problem
    assert load_registry(write({**A, "database": name, "testing_database": name}))


@pytest.mark.parametrize(
    ("seed_after", "expected"),
    [((), ("a",)), (("c",), ("c", "a"))],
)
def test_seeds_in_one_database_follow_its_migrations(
    seed_after: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    shared = {"database": "x", "shared_database": True}
    a, c = service("a", **shared), service("c")
    b = service("b", **shared, migrate_after=("a", "c"), seed_after=seed_after)
    assert seeding_predecessors([b, a, c])["b"] == expected


def test_seed_after_takes_precedence_over_migrate_after() -> None:
    shared = {"database": "x", "shared_database": True}
    a = service("a", **shared, seed_after=("b",))
    b = service("b", **shared, migrate_after=("a",))
    assert seeding_predecessors([a, b]) == {"a": ("b",), "b": ()}


def test_a_cycle_of_migrations_is_named(write: Write) -> None:
    (finding,) = findings(write({**A, "migrate_after": ["b"]}, {**B, "migrate_after": ["a"]}))
    assert finding.startswith("line 1, services: migrate_after forms a cycle: ")


def test_a_cycle_of_seeds_is_named(write: Write) -> None:
    (finding,) = findings(write({**A, "seed_after": ["b"]}, {**B, "seed_after": ["a"]}))
    assert finding.startswith("line 1, services: seed_after forms a cycle: ")
    assert finding.endswith(("a after b after a", "b after a after b"))


def test_all_errors_are_reported_at_once(write: Write) -> None:
    path = write(
        {**A, "prot": 1},
        {**B, "name": "a", "extensions": "pg_trgm"},
        {"name": "c", "port": 1},
        {"name": "9", "port": 0, "seed_after": ["x"]},
        {"name": "d"},
        {"name": "d", "port": 4, "database": "a/b"},
        {"name": "e", "port": 5, "url_variable": "A_SERVICE_DATABASE_URL"},
    )
    text = path.read_text().replace('"port": 5', '"port": 6, "port": 5')
    path.write_text(text)
    places = [finding.partition(": ")[0] for finding in findings(path)]
    assert sorted(places) == [
        "line 2, services[0]",
        "line 3, services[1].extensions",
        "line 3, services[1].name",
        "line 4, services[2].port",
        "line 5, services[3].name",
        "line 5, services[3].port",
        "line 5, services[3].seed_after[0]",
        "line 6, services[4]",
        "line 7, services[5].database",
        "line 7, services[5].name",
        "line 8, service e",
        "line 8, services[6].url_variable",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"services": [\n  {"name" "a"}\n]}', "line 2, column 11"),
        ("services: []", "line 1, column 1"),
        ("", "line 1, column 1"),
    ],
)
def test_invalid_json_is_an_error_with_line_and_column(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "services.json"
    path.write_text(text)
    assert f"{path} is not JSON: {said}" in failure(path).message


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("{}", "'services' is missing"),
        ("[]", "must be an object, not []"),
        ('{"services": {}}', "line 1, services: must be a list, not {}"),
        ('{"servces": []}', "unknown key 'servces'. Did you mean 'services'?"),
    ],
)
def test_a_document_of_another_shape_is_an_error(tmp_path: Path, text: str, finding: str) -> None:
    path = tmp_path / "services.json"
    path.write_text(text)
    assert finding in findings(path)


def test_a_registry_without_services_is_an_error(write: Write) -> None:
    assert [finding.partition(": ")[0] for finding in findings(write())] == ["line 1, services"]


def test_a_byte_order_mark_is_ignored(write: Write) -> None:
    path = write(A)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert [service.name for service in load_registry(path).services] == ["a"]


def test_lines_are_known_where_tabs_indent(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_text(json.dumps({"services": [{"name": "a", "port": 0}]}, indent="\t"))
    assert [finding.partition(": ")[0] for finding in findings(path)] == [
        "line 5, services[0].port"
    ]


def test_a_registry_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "services.json"
    path.write_bytes('{"services": "å"}'.encode("latin-1"))
    assert "could not be read" in failure(path).message


# Missing files and orders of services.


def test_missing_files_are_named(tmp_path: Path) -> None:
    gone = service("gone", directory=tmp_path / "gone")
    (finding,) = gone.missing_files()
    assert str(finding) == f"gone: its directory {tmp_path}/gone does not exist"
    here = service("here", directory=tmp_path, seeds=(tmp_path / "seed.sql",))
    assert [str(finding) for finding in here.missing_files()] == [
        f"here: its file {tmp_path}/alembic.ini does not exist",
        f"here: its file {tmp_path}/seed.sql does not exist",
    ]


def test_the_shipped_schema_is_valid_and_accepts_this_registry() -> None:
    jsonschema_rs.meta.validate(schema())
    document = json.loads((PROJECT / "services.json").read_text())
    assert jsonschema_rs.is_valid(schema(), document)
    assert (PROJECT / document["$schema"]).is_file()


def test_a_port_that_is_not_stated_is_that_of_its_server(write: Write) -> None:
    shared = {"compose_service": "shared"}
    path = write({**A, **shared}, {"name": "b", **shared}, {"name": "c"}, {"name": "d"})
    asked: list[object] = []

    def published(files: object, servers: Collection[str]) -> dict[str, int]:
        asked.append((files, sorted(servers)))
        return {"c_db": 3, "d_db": 4, "shared": 5}

    registry = load_registry(path, published)
    assert [service.port for service in registry.services] == [1, 1, 3, 4]
    assert registry.without_port == {"b", "c", "d"}
    assert asked == [([], ["c_db", "d_db"])]


def test_compose_is_not_asked_if_every_port_is_stated(write: Write) -> None:
    def published(*_: Collection[str]) -> Mapping[str, int]:
        pytest.fail("the compose files were read")

    shared = {"compose_service": "shared"}
    registry = load_registry(write({**A, **shared}, {"name": "b", **shared}), published)
    assert [service.port for service in registry.services] == [1, 1]
