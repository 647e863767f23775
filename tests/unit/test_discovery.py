"""Discovery of the registry in monorepos with and without the conventions."""

import json
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks.config.registry import load_registry
from huleedu_tasks.discovery.discover import write_registry
from huleedu_tasks.discovery.proposals import Decisions
from huleedu_tasks.errors import ConfigurationError, ExitCode
from tests.support.repositories import (
    ASYNC,
    SYNC,
    compose,
    discovered,
    entries,
    found,
    server,
    service,
    write,
)

PASSWORD = "hunter2"


def application(name: str, more: str) -> str:
    return f"  {name}:\n    image: app\n" + "".join(f"    {line}\n" for line in more.splitlines())


def names_of(root: Path) -> list[str]:
    return [str(entry["name"]) for entry in entries(root).values()]


def evidence(root: Path, name: str, field: str) -> str:
    rows = [r for r in discovered(root).fields if (r["service"], r["field"]) == (name, field)]
    return str(rows[0]["evidence"])


# Values that convention gives are not stated


def test_a_regular_service_has_a_name_and_a_port(tmp_path: Path) -> None:
    write(tmp_path, service("services/orders_service"))
    write(tmp_path, compose(server("orders_db", 5441, "huleedu_orders")))
    assert entries(tmp_path) == {"orders": {"name": "orders", "port": 5441}}


def test_the_name_is_the_one_with_which_the_fewest_fields_are_stated(tmp_path: Path) -> None:
    write(tmp_path, service("services/file_service"))
    write(tmp_path, compose(server("file_service_db", 5441, "huleedu_file_service")))
    assert entries(tmp_path) == {
        "file_service": {"name": "file_service", "port": 5441, "directory": "services/file_service"}
    }


def test_histories_that_run_from_the_root_are_named_after_their_configuration_directories(
    tmp_path: Path,
) -> None:
    root = tmp_path / "acme"
    for directory in ("alembic", "services/auth/alembic", "services/ingest/alembic"):
        ini = f"[alembic]\nscript_location = {directory}\n"
        write(root, {f"{directory}/../alembic.ini": ini, f"{directory}/env.py": ASYNC})
    write(root, {".git/HEAD": ""})
    assert set(names_of(root)) == {"acme", "auth", "ingest"}


def test_a_directory_of_packages_names_no_service(tmp_path: Path) -> None:
    root = write(tmp_path / "acme", service("packages/api"))
    assert names_of(root) == ["acme"]


def test_differences_from_convention_are_stated_with_evidence(tmp_path: Path) -> None:
    tmp_path = tmp_path / "acme"
    config = 'import os\n\nDATABASE_URL = os.environ["ORDERS_DSN"]\n'
    write(tmp_path, service("apps/orders", config, env=SYNC) | {"apps/orders/uv.lock": ""})
    write(tmp_path, {"apps/orders/requirements.txt": "psycopg[binary]\n"})
    servers = "services:\n" + server("pg-orders", 5441, "shop_orders")
    write(tmp_path, {"docker-compose.infrastructure.yml": servers})
    assert discovered(tmp_path).document == {
        "prefix": "ACME",
        "compose_files": ["docker-compose.infrastructure.yml"],
        "services": [
            {
                "name": "orders",
                "port": 5441,
                "directory": "apps/orders",
                "database": "shop_orders",
                "url_variable": "ORDERS_DSN",
                "url_scheme": "postgresql+psycopg",
                "python": ["uv", "run", "python"],
                "compose_service": "pg-orders",
            }
        ],
    }
    assert [row["evidence"] for row in discovered(tmp_path).fields][1:] == [
        'docker-compose.infrastructure.yml: pg-orders "5441:5432"',
        "apps/orders/alembic.ini",
        "docker-compose.infrastructure.yml: pg-orders creates shop_orders",
        'apps/orders/config.py:3 os.environ["ORDERS_DSN"]',
        "apps/orders/requirements.txt requires psycopg",
        "apps/orders/uv.lock",
        "apps/orders and pg-orders have similar names",
    ]
    write(tmp_path, {"services.json": json.dumps(discovered(tmp_path).document)})
    assert "is up to date." in discovered(tmp_path).closing[0]
    assert not [remark for remark in discovered(tmp_path).remarks if "was kept" in remark]


# Assigning servers to services


@pytest.mark.parametrize(
    ("directory", "name", "database"),
    [
        ("services/orders_service", "orders_db", ""),
        ("services/orders-service", "orders-db", "orders"),
        ("backend/svc-order-intake", "db-order-intake", "order_intake"),
        ("apps/orders", "db-orders", "x"),
        ("orders", "postgres-orders", ""),
        ("orders", "shop-pg", "OrdersDB"),
        ("services/order_intake_service", "orderintake_postgres", ""),
        ("services/batch_conductor_service", "bcs_db", ""),
        ("services/orders/backend", "orders_db", ""),
    ],
)
def test_a_server_is_assigned_to_the_directory_with_a_similar_name(
    tmp_path: Path, directory: str, name: str, database: str
) -> None:
    write(tmp_path, service(directory) | service("services/payments_service"))
    write(tmp_path, compose(server("payments_db", 5440, "payments"), server(name, 5441, database)))
    ports = {entry["port"]: entry for entry in entries(tmp_path).values()}
    assert load(tmp_path)[5441].directory == tmp_path / directory
    assert set(ports) == {5440, 5441}


def load(root: Path) -> dict[int, Any]:
    """Return the services of the discovered registry, as loaded by every command, by port."""
    path = root / "discovered.json"
    path.write_text(json.dumps(discovered(root).document))
    return {service.port: service for service in load_registry(path).services}


def test_a_directory_that_is_named_like_a_part_of_another_keeps_its_own_server(
    tmp_path: Path,
) -> None:
    write(tmp_path, service("services/orders") | service("services/orders_archive"))
    write(tmp_path, compose(server("orders_archive_db", 5441), server("orders_db", 5442)))
    assert {n: e["port"] for n, e in entries(tmp_path).items()} == {
        "orders_archive": 5441,
        "orders": 5442,
    }


def test_a_port_in_the_sources_outweighs_a_name(tmp_path: Path) -> None:
    config = 'URL = "postgresql+asyncpg://u@localhost:5442/one"'
    write(tmp_path, service("apps/orders", config))
    write(tmp_path, compose(server("orders_db", 5441, "orders"), server("other_db", 5442, "two")))
    (entry,) = entries(tmp_path).values()
    assert (entry["port"], entry["database"]) == (5442, "one")


def test_the_url_of_an_application_outweighs_everything(tmp_path: Path) -> None:
    config = 'URL = "postgresql+asyncpg://u@localhost:5441/orders"'
    write(tmp_path, service("apps/orders", config))
    more = f"build: ./apps/orders\nenvironment: {{SHOP_DSN: 'postgresql+psycopg2://u:{PASSWORD}@b_db/shop'}}"
    write(
        tmp_path,
        compose(
            server("orders_db", 5441, "orders"), server("b_db", 5442), application("api", more)
        ),
    )
    (entry,) = entries(tmp_path).values()
    assert (entry["port"], entry["database"], entry["url_variable"]) == (5442, "shop", "SHOP_DSN")
    assert evidence(tmp_path, entry["name"], "url_variable") == (
        "compose.yaml: SHOP_DSN of api resolves to b_db/shop"
    )
    assert PASSWORD not in json.dumps(discovered(tmp_path).as_json())


@pytest.mark.parametrize(
    "known_by",
    [
        "build: apps/orders",
        "build: {context: ., dockerfile: apps/orders/Dockerfile}",
        "volumes: ['./apps/orders/src:/app']",
        "working_dir: /srv/apps/orders",
        "command: uvicorn apps.orders.main:app",
        "command: python apps/orders/worker.py",
    ],
)
def test_an_application_belongs_to_the_service_that_it_runs(tmp_path: Path, known_by: str) -> None:
    write(tmp_path, service("apps/orders") | service("apps/payments"))
    more = f"{known_by}\nenvironment: ['SHOP_DSN=postgresql://u:p@b_db:5432/shop']"
    write(
        tmp_path, compose(server("payments_db", 5441), server("b_db", 5442), application("x", more))
    )
    assert load(tmp_path)[5442].directory == tmp_path / "apps/orders"


def test_two_applications_of_one_service_are_one_service(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders"))
    more = "build: apps/orders\nenvironment: {ORDERS_DSN: 'postgresql://u:p@main/orders'}"
    write(tmp_path, compose(server("main", 5441), application("api", more), application("w", more)))
    assert names_of(tmp_path) == ["orders"]


def test_an_application_may_have_variables_for_parts_of_the_url(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders"))
    more = "build: apps/orders\nenvironment: {DB_HOST: b_db, DB_NAME: shop, DB_PASSWORD: hunter2}"
    write(tmp_path, compose(server("a_db", 5441), server("b_db", 5442), application("x", more)))
    (entry,) = entries(tmp_path).values()
    assert (entry["port"], entry["database"]) == (5442, "shop")


def test_applications_in_another_compose_file_name_their_servers(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders"))
    more = "build: apps/orders\nenvironment: {ORDERS_DSN: 'postgresql://u:p@b_db/shop'}"
    infrastructure = "services:\n" + server("a_db", 5441) + server("b_db", 5442)
    write(tmp_path, {"docker-compose.infra.yml": infrastructure})
    write(tmp_path, {"docker-compose.yml": "services:\n" + application("x", more)})
    document = discovered(tmp_path).document
    assert document["compose_files"] == ["docker-compose.infra.yml"]
    assert load(tmp_path)[5442].url_variable == "ORDERS_DSN"


def test_a_replica_is_not_the_server_of_its_service(tmp_path: Path) -> None:
    config = 'URL = "postgresql+asyncpg://u@h/orders"'
    write(tmp_path, service("apps/orders", config))
    servers = server("orders_replica_db", 5442, "orders"), server("orders_db", 5441, "orders")
    write(tmp_path, compose(*servers))
    assert entries(tmp_path)["orders"]["port"] == 5441


def test_a_server_of_another_application_is_reported_and_not_assigned(tmp_path: Path) -> None:
    write(tmp_path, service("services/orders_service"))
    write(
        tmp_path, compose(server("orders_db", 5441), server("keycloak-postgres", None, "keycloak"))
    )
    assert names_of(tmp_path) == ["orders"]
    assert (
        "The PostgreSQL server keycloak-postgres (keycloak) was not assigned to a service."
        in discovered(tmp_path).remarks
    )


# One server for several services

SHARED = ("orders", "billing", "users")
DATABASES = {name: f"shop_{name}" for name in SHARED}


def shared(root: Path, *, has_urls: bool = False) -> dict[str, dict[str, Any]]:
    """Write three services and one server; return the discovered entries."""
    parts = [server("postgres", 5441)]
    for name in SHARED:
        write(root, service(f"apps/{name}", f'x = os.getenv("{name.upper()}_DATABASE_URL")\n'))
        url = f"postgresql://u:p@postgres:5432/{DATABASES[name]}"
        variables = f"environment: {{{name.upper()}_DATABASE_URL: '{url}'}}\n" if has_urls else ""
        parts.append(application(name, f"build: apps/{name}\n{variables}depends_on: [postgres]"))
    write(root, compose(*parts))
    return entries(root)


def test_three_services_share_a_server_according_to_their_applications(tmp_path: Path) -> None:
    found = shared(tmp_path, has_urls=True)
    assert databases(tmp_path) == DATABASES
    assert {entry["compose_service"] for entry in found.values()} == {"postgres"}
    assert len(load_all(tmp_path)) == 3


def databases(root: Path) -> dict[str, str]:
    """Return the database of each service, as stated or by the registry's convention."""
    return {service.name: service.database for service in load_all(root)}


def test_a_common_prefix_of_databases_becomes_the_naming_convention(tmp_path: Path) -> None:
    shared(tmp_path, has_urls=True)
    document = discovered(tmp_path).document
    assert document["prefix"] == "SHOP"
    assert all("database" not in entry for entry in entries(tmp_path).values())
    write(tmp_path, {"services.json": json.dumps({**document, "prefix": "OTHER"})})
    assert discovered(tmp_path).document["prefix"] == "OTHER"


@pytest.mark.parametrize(
    ("directory", "prefix"),
    [
        ("acme", "ACME"),
        ("full-stack-fastapi-template", "FULL"),
        ("1st", None),
        ("my.shop", "MY_SHOP"),
    ],
)
def test_the_settings_prefix_is_the_repositorys_name_without_a_common_database_prefix(
    tmp_path: Path, directory: str, prefix: str | None
) -> None:
    root = write(
        tmp_path / directory, service("apps/orders") | compose(server("db", 5441, "orders"))
    )
    assert discovered(root).document.get("prefix") == prefix


def load_all(root: Path) -> tuple[Any, ...]:
    path = root / "discovered.json"
    path.write_text(json.dumps(discovered(root).document))
    return load_registry(path).services


def test_databases_are_read_from_an_init_script(tmp_path: Path) -> None:
    shared(tmp_path)
    text = (tmp_path / "compose.yaml").read_text()
    sql = "".join(f'CREATE DATABASE "{name}";\n' for name in DATABASES.values())
    usual = "[postgres_data:/var/lib/postgresql/data]"
    with_script = usual.replace("]", ", ./init:/docker-entrypoint-initdb.d]")
    write(tmp_path, {"compose.yaml": text.replace(usual, with_script), "init/10.sql": sql})
    assert databases(tmp_path) == DATABASES


def test_databases_are_read_from_a_list_for_an_init_script(tmp_path: Path) -> None:
    shared(tmp_path)
    text = (tmp_path / "compose.yaml").read_text()
    names = ",".join(f"{name}:{PASSWORD}" for name in DATABASES.values())
    line = f"POSTGRES_PASSWORD: secret\n      POSTGRES_MULTIPLE_DATABASES: {names}"
    write(tmp_path, {"compose.yaml": text.replace("POSTGRES_PASSWORD: secret", line, 1)})
    assert databases(tmp_path) == DATABASES
    assert PASSWORD not in json.dumps(discovered(tmp_path).as_json())


def test_the_default_database_does_not_prevent_assigning_the_others(tmp_path: Path) -> None:
    for name in ("batch_conductor", "class_roster", "essay_intake"):
        write(tmp_path, service(f"services/{name}_service"))
    names = ["BatchConductorDB", "ClassRosterDB", "huleedu_essay_intake"]
    sql = "".join(f'CREATE DATABASE "{name}";\n' for name in names)
    postgres = server("postgres", 5441).replace(
        "POSTGRES_PASSWORD", "POSTGRES_USER: huleedu_user\n      POSTGRES_PASSWORD"
    )
    usual = "[postgres_data:/var/lib/postgresql/data]"
    postgres = postgres.replace(usual, usual.replace("]", ", ./init:/docker-entrypoint-initdb.d]"))
    waiting = [
        application(name, f"build: services/{name}_service\ndepends_on: [postgres]")
        for name in ("batch_conductor", "class_roster", "essay_intake")
    ]
    write(tmp_path, compose(postgres, *waiting) | {"init/10.sql": sql})
    result = discovered(tmp_path)
    assert not result.unsettled
    assert [service.database for service in load_all(tmp_path)] == names


def test_a_service_without_a_known_database_gets_a_question(tmp_path: Path) -> None:
    found = shared(tmp_path)
    assert found["orders"]["database"].startswith("FIXME: ")
    result = discovered(tmp_path)
    assert result.exit_code is ExitCode.FAILED
    assert [row["field"] for row in result.unsettled] == ["database"] * 3


# Open questions


def test_two_equally_likely_servers_are_a_question_that_every_command_refuses(
    tmp_path: Path,
) -> None:
    config = 'NAME = "postgresql+asyncpg://u@h/shop"'
    write(tmp_path, service("apps/orders", config))
    write(tmp_path, compose(server("one", 5441, "shop"), server("two", 5442, "shop")))
    result = discovered(tmp_path)
    assert result.exit_code is ExitCode.FAILED
    (row,) = result.unsettled
    assert (row["service"], row["field"]) == ("orders", "port")
    assert row["question"] == "5441 (one) or 5442 (two)?"
    path = tmp_path / "services.json"
    write_registry(result, path)
    with pytest.raises(ConfigurationError) as caught:
        load_registry(path)
    (finding,) = caught.value.findings
    assert finding.place.startswith("line ")
    assert "5441 (one) or 5442 (two)?" in finding.problem


def test_the_answer_to_a_question_settles_the_server(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders", 'NAME = "postgresql+asyncpg://u@h/shop"'))
    write(tmp_path, compose(server("one", 5441, "shop"), server("two", 5442, "shop")))
    decisions = Decisions().with_choice(tmp_path / "apps/orders/alembic", "port", "two")
    (entry,) = found(tmp_path).entries(decisions)
    assert entry.document["port"] == 5442
    assert not found(tmp_path).questions(decisions)
    assert not found(tmp_path).entries(Decisions().leaving_out(tmp_path / "apps/orders/alembic"))


def test_without_a_server_port_and_database_are_read_from_the_sources(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders", 'URL = "postgresql://u@localhost:5441/shop"'))
    assert entries(tmp_path) == {
        "orders": {"name": "orders", "port": 5441, "directory": "apps/orders", "database": "shop"}
    }
    assert "No compose file was found." in discovered(tmp_path).remarks


def test_without_a_server_and_a_port_the_service_gets_a_question(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders"))
    write(tmp_path, compose(server("payments_db", 5441, "payments")))
    entry = entries(tmp_path)["orders"]
    assert entry["port"] == (
        "FIXME: which port? No PostgreSQL server in the compose files matches; 5442 is free."
    )
    # Without a known database the convention applies.
    assert "database" not in entry


def test_every_service_without_a_server_is_offered_a_separate_free_port(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders") | service("apps/users"))
    write(tmp_path, compose(server("payments_db", 5441, "payments")))
    existing(tmp_path, {"name": "gone", "port": 5442})
    asked = found(tmp_path).questions(Decisions())
    assert [question.choices[0].value for _, question in asked] == ["5443", "5444"]
    decisions = Decisions().with_choice(tmp_path / "apps/orders/alembic", "port", "5444")
    ((_, left),) = found(tmp_path).questions(decisions)
    assert left.choices[0].value == "5445"


def test_an_unassigned_server_is_offered_before_assigned_ones(
    tmp_path: Path,
) -> None:
    write(tmp_path, service("services/orders_service") | service("apps/users"))
    write(tmp_path, compose(server("orders_db", 5441), server("spare", 5442, "x")))
    ((entry, question),) = found(tmp_path).questions(Decisions())
    assert entry.name == "users"
    assert [choice.value for choice in question.choices] == ["5443", "spare", "orders_db"]


def test_a_server_without_a_published_port_is_a_question(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders"))
    write(tmp_path, compose(server("orders_db", None)))
    assert "publishes no port" in entries(tmp_path)["orders"]["port"]


def test_services_on_a_server_without_a_port_have_one_question(tmp_path: Path) -> None:
    more = "environment: {{{}_DATABASE_URL: 'postgresql+asyncpg://u:p@db/{}'}}\nbuild: ./{}"
    write(tmp_path, service("one") | service("two"))
    write(
        tmp_path,
        compose(
            server("db", None, "start"),
            *(application(name, more.format(name.upper(), name, name)) for name in ("one", "two")),
        ),
    )
    (question,) = discovered(tmp_path).unsettled
    assert (question["service"], question["field"]) == ("one, two", "port")
    assert "5433 is free" in str(question["question"])
    seen = found(tmp_path)
    entry, asked = seen.questions(Decisions())[1]
    answer = Decisions().with_choice(entry.proposal.key, asked.field, asked.choices[0].value)
    settled = seen.result(answer)
    assert not settled.unsettled
    document: Any = settled.document
    assert [stated["port"] for stated in document["services"]] == [5433, 5433]


@pytest.mark.parametrize("variable", ["REDIS_DB", "SHOP_CACHE_DB", "MONGO_DB_NAME", "SHOP_DB"])
def test_a_number_or_another_systems_name_is_not_a_database(tmp_path: Path, variable: str) -> None:
    value = "0" if variable == "SHOP_DB" else "other"
    settings = f'import os\n\nother_db = os.environ.get("{variable}", "{value}")\n'
    write(tmp_path, service("shop", settings))
    more = f"build: ./shop\nenvironment: {{POSTGRES_HOST: db, {variable}: '{value}'}}"
    write(tmp_path, compose(server("db", 5441, "shop_main"), application("shop", more)))
    (entry,) = entries(tmp_path).values()
    assert entry["database"] == "shop_main"


def test_a_part_of_a_url_is_not_stated_as_the_urls_variable(tmp_path: Path) -> None:
    settings = """
        import os

        DATABASE_URL = "postgresql+asyncpg://u@localhost:5441/" + os.environ["BILLING_DB"]
    """
    write(tmp_path, service("billing", settings))
    write(tmp_path, compose(server("billing_db", 5441, "billing")))
    (entry,) = entries(tmp_path).values()
    assert not {"url_variable", "alembic_url_variable"} & entry.keys()


def test_a_variable_that_two_services_read_overrides_neither(tmp_path: Path) -> None:
    config = 'import os\nURL = os.environ["DATABASE_URL"]\n'
    write(tmp_path, service("apps/orders", config) | service("apps/users", config))
    write(tmp_path, compose(server("orders_db", 5441), server("users_db", 5442)))
    for entry in entries(tmp_path).values():
        assert entry["alembic_url_variable"] == "DATABASE_URL"
        assert "url_variable" not in entry
    assert discovered(tmp_path).exit_code is ExitCode.DONE


def test_an_unshared_variable_is_preferred_to_a_shared_one(tmp_path: Path) -> None:
    both = 'import os\nURL = os.getenv("DATABASE_URL") or os.environ["{}_URL"]\n'
    write(tmp_path, service("apps/orders", both.format("ORDERS_DB")))
    write(tmp_path, service("apps/users", both.format("USERS_DB")))
    write(tmp_path, compose(server("orders_db", 5441), server("users_db", 5442)))
    assert {n: e["url_variable"] for n, e in entries(tmp_path).items()} == {
        "orders": "ORDERS_DB_URL",
        "users": "USERS_DB_URL",
    }


def test_directories_with_the_same_name_get_different_names(tmp_path: Path) -> None:
    write(tmp_path, service("sales/orders") | service("support/orders"))
    config = 'URL = "postgresql+asyncpg://u@localhost:{}/{}"'
    write(tmp_path, {"sales/orders/config.py": config.format(5441, "a")})
    write(tmp_path, {"support/orders/config.py": config.format(5442, "b")})
    write(tmp_path, compose(server("sales_orders_db", 5441), server("support_orders_db", 5442)))
    assert sorted(names_of(tmp_path)) == ["sales_orders", "support_orders"]


def test_two_services_with_the_same_database_are_reported_at_once(tmp_path: Path) -> None:
    config = 'URL = "postgresql+asyncpg://u@localhost:5441/shop"'
    write(tmp_path, service("apps/orders", config) | service("apps/users", config))
    write(tmp_path, compose(server("db", 5441, "shop")))
    result = discovered(tmp_path)
    assert result.exit_code is ExitCode.FAILED
    (row,) = result.unsettled
    assert (row["service"], row["field"]) == ("orders, users", "database")
    assert "give each a separate version table" in str(row["question"])


ENV_PY = """\
from alembic import context

context.configure(connection=connect(){})
"""


def test_services_that_share_a_database_are_stated_with_their_order(tmp_path: Path) -> None:
    config = 'URL = "postgresql+asyncpg://u@localhost:5441/shop"'
    options = {
        "core": "",
        "orders": ', version_table="orders_version"',
        "users": ', version_table_schema="users"',
    }
    for name, option in options.items():
        write(tmp_path, service(f"apps/{name}", config))
        (env_py,) = (tmp_path / f"apps/{name}").rglob("env.py")
        env_py.write_text(ENV_PY.format(option))
    create = 'op.execute("CREATE SCHEMA IF NOT EXISTS users")'
    versions = next((tmp_path / "apps/orders").rglob("env.py")).parent / "versions"
    write(tmp_path, {f"{versions.relative_to(tmp_path)}/a1.py": create})
    write(tmp_path, compose(server("db", 5441, "shop")))
    result = discovered(tmp_path)
    assert result.exit_code is ExitCode.DONE, result.unsettled
    stated = {
        n: (e["shared_database"], e.get("migrate_after")) for n, e in entries(tmp_path).items()
    }
    assert stated == {
        "core": (True, None),
        "orders": (True, ["core"]),
        "users": (True, ["orders"]),
    }
    evidence = {(row["service"], row["field"]): row["evidence"] for row in result.fields}
    assert evidence["users", "migrate_after"] == "orders creates the schema users"
    assert evidence["orders", "shared_database"] == (
        'it has the same database as core, users; its version table is "orders_version"'
    )


def test_contradictions_are_reported_with_their_directories(tmp_path: Path) -> None:
    regular(tmp_path)
    directory = "services/orders_service"
    ini = "[alembic]\nscript_location = %(here)s/migrations\n"
    write(
        tmp_path, {f"{directory}/db/alembic.ini": ini, f"{directory}/db/migrations/env.py": ASYNC}
    )
    existing(tmp_path, {"name": "orders", "port": 5441, "alembic_config": "db/alembic.ini"})
    rows = discovered(tmp_path).unsettled
    (row,) = (row for row in rows if row["field"] == "url_variable")
    assert row["service"] == "services_orders_service"
    assert row["question"] == "'ORDERS_SERVICE_DATABASE_URL' belongs to 'orders' already"


def test_sections_and_second_configurations_of_a_directory_are_separate_services(
    tmp_path: Path,
) -> None:
    ini = "[core]\nscript_location = core\n[audit]\nscript_location = audit\n"
    write(tmp_path, {"alembic.ini": ini, "core/env.py": ASYNC, "audit/env.py": ASYNC})
    write(tmp_path, {"extra.ini": "[alembic]\nscript_location = extra\n", "extra/env.py": ASYNC})
    write(tmp_path, compose(server("core_db", 5441, "core"), server("audit_db", 5442, "audit")))
    found_ones = entries(tmp_path).values()
    assert {(e.get("alembic_config"), e.get("alembic_section")) for e in found_ones} == {
        (None, "core"),
        (None, "audit"),
        ("extra.ini", None),
    }
    assert {entry["directory"] for entry in found_ones} == {"."}


def test_a_sibling_directory_without_migrations_is_reported(tmp_path: Path) -> None:
    write(tmp_path, service("services/orders_service"))
    write(
        tmp_path,
        {"services/reports/config.py": 'import os\nDATABASE_URL = os.environ["REPORTS_DSN"]\n'},
    )
    write(tmp_path, {"services/web/config.py": "PORT = 1\n"} | compose(server("orders_db", 5441)))
    remarks = [text for text in discovered(tmp_path).remarks if "no Alembic" in text]
    assert remarks == [
        "services/reports was left out: it has no Alembic migrations. Its sources name a database "
        'URL (services/reports/config.py:2 os.environ["REPORTS_DSN"]).'
    ]


def test_a_repository_without_a_service_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No service was found"):
        discovered(tmp_path)


# Compose files


@pytest.mark.parametrize(
    ("files", "stated"),
    [
        (["compose.yaml"], None),
        (["docker-compose.yml", "docker-compose.override.yml"], None),
        (["docker-compose.infrastructure.yml"], ["docker-compose.infrastructure.yml"]),
        (["infra/compose.db.yaml", "infra/compose.prod.yaml"], ["infra/compose.db.yaml"]),
        (["deploy/production/compose.yml"], ["deploy/production/compose.yml"]),
        (["deploy/a/b/c/compose.yml"], None),
    ],
)
def test_compose_files_that_compose_does_not_load_by_default_are_stated(
    tmp_path: Path, files: list[str], stated: list[str] | None
) -> None:
    write(tmp_path, service("services/orders_service", "DB_PORT = 5441\n"))
    text = "services:\n" + server("orders_db", 5441, "huleedu_orders")
    write(tmp_path, dict.fromkeys(files, text))
    assert discovered(tmp_path).document.get("compose_files") == stated


def test_an_invalid_compose_file_is_reported_and_skipped(tmp_path: Path) -> None:
    write(tmp_path, service("services/orders_service"))
    write(tmp_path, {"helm/compose.tpl.yaml": "{{ if }}\n  - : x"})
    write(tmp_path, {"infra/compose.db.yaml": "services:\n" + server("orders_db", 5441)})
    assert entries(tmp_path)["orders"]["port"] == 5441
    assert any(
        "compose.tpl.yaml is not valid YAML" in remark for remark in discovered(tmp_path).remarks
    )


LAUGHS = "\n".join(
    ["x0: &x0 [a, a]", *(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]" for n in range(1, 60))]
)
MERGED = "\n".join(
    ["x0: &x0 {a: b}", *(f"x{n}: &x{n} {{<<: [*x{n - 1}, *x{n - 1}]}}" for n in range(1, 60))]
)
ODD_FILES = {
    "x: &a [*a]": "by its aliases",
    "x: &a {{b: *a}}": "by its aliases",
    LAUGHS: "by its aliases",
    MERGED.replace("{", "{{").replace("}", "}}"): "by its aliases",
    f"x: {'[' * 1000}{']' * 1000}": "is nested too deeply",
    "x: !!int b": "does not match its tag",
    "x: !!timestamp b": "does not match its tag",
    "? [a]\n: b": "is not valid YAML",
}


@pytest.mark.combinations(odd=range(len(ODD_FILES)), name=["compose.yaml", "infra/compose.db.yaml"])
def test_a_compose_file_that_cannot_be_read_has_an_error_message(
    tmp_path: Path, odd: int, name: str
) -> None:
    text, what = list(ODD_FILES.items())[odd]
    write(tmp_path, service("services/orders_service", "DB_PORT = 5441\n"))
    write(tmp_path, {name: text.format(name=Path(name).name)})
    if name == "compose.yaml":
        with pytest.raises(ConfigurationError, match=what):
            discovered(tmp_path)
    else:
        assert any(what in remark for remark in discovered(tmp_path).remarks)


@pytest.mark.parametrize(
    "service_of_it",
    [
        "5",
        "[a]",
        "{image: [a], ports: 5, volumes: {a: b}, environment: 5, build: [a], command: {a: b}}",
        "{image: postgres, ports: ['1-99999999999:1-99999999999', {target: 99999999999}, [5432]]}",
        "{image: postgres, depends_on: !!int 5, env_file: [[a], {path: }], extends: {service: }}",
        "{image: postgres, environment: {POSTGRES_DB: [a], 5: {a: b}, ~: ~}}",
    ],
)
def test_a_service_that_compose_refuses_is_read_as_far_as_possible(
    tmp_path: Path, service_of_it: str
) -> None:
    write(tmp_path, service("services/orders_service", "DB_PORT = 5441\n"))
    write(tmp_path, {"compose.yaml": f"services: {{db: {service_of_it}, ~: {{}}}}"})
    assert entries(tmp_path)


def test_aliases_may_be_many(tmp_path: Path) -> None:
    regular(tmp_path)
    text = (tmp_path / "compose.yaml").read_text()
    more = "x-env: &env {A: b}\n" + "".join(f"x-{n}: {{environment: *env}}\n" for n in range(2000))
    write(tmp_path, {"compose.yaml": more + text})
    assert names_of(tmp_path) == ["orders"]


def test_an_unreadable_source_is_reported(tmp_path: Path) -> None:
    write(tmp_path, service("services/orders_service", "X = " + " + ".join(["'a'"] * 3000)))
    write(tmp_path, compose(server("orders_db", 5441)))
    assert "services/orders_service/config.py is nested too deeply for the parser." in (
        discovered(tmp_path).remarks
    )


def test_paths_are_relative_to_the_directory_of_the_registry(tmp_path: Path) -> None:
    write(tmp_path, service("services/orders_service"))
    text = "services:\n" + server("orders_db", 5441, "huleedu_orders")
    write(tmp_path, {"infra/compose.yaml": text})
    result = discovered(tmp_path, "ops/db/services.json")
    assert result.document == {
        "compose_files": ["../../infra/compose.yaml"],
        "services": [
            {"name": "orders", "port": 5441, "directory": "../../services/orders_service"}
        ],
    }


# An existing registry


def existing(root: Path, *services: dict[str, Any], **more: Any) -> None:
    write(root, {"services.json": json.dumps({**more, "services": services})})


def regular(root: Path) -> None:
    write(root, service("services/orders_service"))
    write(root, compose(server("orders_db", 5441, "huleedu_orders")))


def test_stated_values_are_kept_and_differences_are_reported(tmp_path: Path) -> None:
    regular(tmp_path)
    kept = {
        "name": "shop",
        "directory": "services/orders_service",
        "compose_service": "orders_db",
        "port": 5440,
        "seeds": ["a.sql"],
        "extensions": ["pg_trgm"],
        "environment": {"A": "b"},
        "lock_timeout": 3,
        "alembic": ".venv/bin/alembic",
    }
    existing(tmp_path, kept, **{"$schema": "x.json"})
    result = discovered(tmp_path)
    added = {"database": "huleedu_orders"}
    assert result.document == {"$schema": "x.json", "services": [{**kept, **added}]}
    assert [(row["field"], row["value"]) for row in result.fields] == list(added.items())
    assert (
        "shop: 'port' is 5440 in the registry and was kept; discovery found 5441 "
        '(compose.yaml: orders_db "5441:5432").'
    ) in result.remarks


@pytest.mark.parametrize(
    "stated", [{"name": "orders"}, {"name": "shop", "compose_service": "orders_db"}]
)
def test_a_port_is_left_to_the_compose_file_as_before(
    tmp_path: Path, stated: dict[str, Any]
) -> None:
    regular(tmp_path)
    write(tmp_path, service("services/users_service"))
    servers = server("orders_db", 5441, "huleedu_orders"), server("users_db", 5442, "huleedu_users")
    write(tmp_path, compose(*servers))
    existing(
        tmp_path, {**stated, "directory": "services/orders_service", "database": "huleedu_orders"}
    )
    assert [entry.get("port") for entry in entries(tmp_path).values()] == [None, 5442]
    assert discovered(tmp_path).unsettled == ()


def test_a_missing_port_is_added_if_the_entrys_compose_service_has_none(tmp_path: Path) -> None:
    regular(tmp_path)
    existing(tmp_path, {"name": "shop", "directory": "services/orders_service"})
    assert entries(tmp_path)["shop"]["port"] == 5441


def test_a_new_service_is_added_after_the_existing_ones(tmp_path: Path) -> None:
    regular(tmp_path)
    write(tmp_path, service("services/users_service"))
    servers = server("orders_db", 5441, "huleedu_orders"), server("users_db", 5442, "huleedu_users")
    write(tmp_path, compose(*reversed(servers)))
    existing(tmp_path, {"name": "orders", "port": 5441, "seeds": []})
    result = discovered(tmp_path)
    assert result.document["services"] == [
        {"name": "orders", "port": 5441, "seeds": []},
        {"name": "users", "port": 5442},
    ]
    assert {row["service"] for row in result.fields} == {"users"}


def test_a_service_that_was_moved_gets_its_new_directory(tmp_path: Path) -> None:
    write(tmp_path, service("apps/shop"))
    write(tmp_path, compose(server("orders_db", 5441, "huleedu_orders")))
    config = 'URL = "postgresql+asyncpg://u@orders_db/huleedu_orders"'
    write(tmp_path, {"apps/shop/config.py": config})
    existing(tmp_path, {"name": "orders", "port": 5441, "lock_timeout": 3})
    assert entries(tmp_path) == {
        "orders": {"name": "orders", "port": 5441, "lock_timeout": 3, "directory": "apps/shop"}
    }


@pytest.mark.parametrize(
    "stated",
    [
        {"alembic_config": "db/alembic.ini"},
        {"directory": "services/orders_service/db"},
        {"directory": "services/../services/orders_service", "alembic_config": "./db/alembic.ini"},
    ],
)
def test_an_entry_is_identified_by_its_alembic_configuration_not_by_its_directory(
    tmp_path: Path, stated: dict[str, Any]
) -> None:
    directory = "services/orders_service/db"
    ini = "[alembic]\nscript_location = %(here)s/migrations\n"
    write(tmp_path, {f"{directory}/alembic.ini": ini, f"{directory}/migrations/env.py": ASYNC})
    write(tmp_path, compose(server("orders_db", 5441, "huleedu_orders")))
    variable = {"url_variable": "ORDERS_SERVICE_DATABASE_URL"}
    existing(tmp_path, {"name": "orders", "port": 5441, **variable, **stated})
    result = discovered(tmp_path)
    assert "is up to date." in result.closing[0]
    assert not result.remarks


def test_an_entry_with_the_wrong_directory_is_reported(tmp_path: Path) -> None:
    ini = "[alembic]\nscript_location = migrations\n"
    directory = "services/orders_service"
    write(
        tmp_path,
        {f"{directory}/migrations/alembic.ini": ini, f"{directory}/migrations/env.py": ASYNC},
    )
    write(tmp_path, compose(server("orders_db", 5441, "huleedu_orders")))
    entry = {"name": "orders", "port": 5441, "directory": f"{directory}/migrations"}
    existing(tmp_path, entry)
    assert names_of(tmp_path) == ["orders"]
    (remark,) = discovered(tmp_path).remarks
    assert f"discovery found '{directory}'" in remark


def test_two_services_never_share_one_entry(tmp_path: Path) -> None:
    directory = "services/orders_service"
    ini = "[alembic]\nscript_location = %(here)s/migrations\n"
    write(tmp_path, service(directory))
    write(
        tmp_path, {f"{directory}/db/alembic.ini": ini, f"{directory}/db/migrations/env.py": ASYNC}
    )
    write(tmp_path, compose(server("orders_db", 5441), server("other_db", 5442)))
    existing(tmp_path, {"name": "orders", "port": 5441, "alembic_config": "db/alembic.ini"})
    documents = [entry.document for entry in found(tmp_path).entries(Decisions())]
    assert len({document["name"] for document in documents}) == 2


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "orders", "port": 5441},
        {"name": "orders", "port": 5441, "directory": "services/orders_service"},
        {"port": 5441, "name": "orders", "seed_after": []},
    ],
)
def test_an_equal_registry_is_up_to_date(tmp_path: Path, entry: dict[str, Any]) -> None:
    regular(tmp_path)
    write(tmp_path, {"services/orders_service/.venv/bin/python": ""})
    existing(tmp_path, entry)
    result = discovered(tmp_path)
    assert result.shown == ""
    assert "is up to date." in result.closing[0]
    assert result.exit_code is ExitCode.DONE


def test_an_existing_entry_answers_what_discovery_cannot(tmp_path: Path) -> None:
    write(tmp_path, service("apps/orders", 'NAME = "postgresql+asyncpg://u@h/shop"'))
    write(tmp_path, compose(server("one", 5441, "shop"), server("two", 5442, "shop")))
    entry = {"name": "orders", "port": 5442, "directory": "apps/orders", "database": "shop"}
    existing(tmp_path, entry)
    assert not discovered(tmp_path).unsettled
    assert "is up to date." in discovered(tmp_path).closing[0]


def test_a_question_is_replaced_once_the_value_is_found(tmp_path: Path) -> None:
    regular(tmp_path)
    existing(tmp_path, {"name": "orders", "port": "FIXME: 5441 or 5442?", "seed_after": []})
    assert entries(tmp_path)["orders"] == {"name": "orders", "seed_after": [], "port": 5441}


def test_an_entry_without_a_directory_is_kept_and_reported(tmp_path: Path) -> None:
    regular(tmp_path)
    gone = {"name": "gone", "port": 5500}
    existing(tmp_path, gone, {"name": "orders", "port": 5441})
    result = discovered(tmp_path)
    assert result.document["services"] == [gone, {"name": "orders", "port": 5441}]
    assert "gone: no directory with migrations was found; the entry was kept." in result.remarks


def test_invalid_json_in_the_registry_is_an_error_with_its_line(tmp_path: Path) -> None:
    regular(tmp_path)
    write(tmp_path, {"services.json": '{\n "services": [,]}'})
    with pytest.raises(ConfigurationError, match="line 2"):
        discovered(tmp_path)


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ('{"services": [{"name": "a", "port": "x"}]}', "services[0]"),
        ('{"services": [{"port": 1}, 5]}', "services[0], services[1]"),
        ('{"services": [], "compose_files": "x"}', "compose_files"),
        ("[]", "must be a JSON object"),
        ('{"services": 5}', "services"),
        ('{"services": [{"name": "a", "port": 1e999}]}', "services[0]"),
        (
            '{"services": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}',
            "duplicate name 'a'",
        ),
        ('{"services": [{"name": "a", "port": 1, "port": 2}]}', "key 'port' is duplicated"),
        pytest.param("[" * 100_000 + "]" * 100_000, "nested too deeply", id="deep"),
        pytest.param('{"services": ' + "9" * 5000 + "}", "too many digits", id="long"),
    ],
)
def test_an_invalid_registry_is_an_error(tmp_path: Path, document: str, what: str) -> None:
    regular(tmp_path)
    write(tmp_path, {"services.json": document})
    with pytest.raises(ConfigurationError) as caught:
        discovered(tmp_path)
    assert what in caught.value.message
