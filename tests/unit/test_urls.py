"""Database URLs: form, encoding of any password, and masking."""

import re
import traceback
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huleedu_tasks.config.hosts import LOOPBACK, host_of
from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.urls import DatabaseUrl, parse_url, resolve, resolve_all
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.migrations.child import first_connection, target_check
from tests.support.values import service, settings

VARIABLE = "ORDERS_SERVICE_DATABASE_URL"
HOSTILE = "p@ss#w%rd/1 +:?&=[]'\"$\\ö€🔑"
# Any value of an environment variable in UTF-8.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


def url(**parts: object) -> DatabaseUrl:
    simple = {
        "user": "huleedu_user",
        "password": Secret("secret"),
        "host": "localhost",
        "port": 5435,
        "database": "huleedu_orders",
    }
    return DatabaseUrl(**{**simple, **parts})  # type: ignore[arg-type]


def test_a_simple_url_is_exactly_the_documents() -> None:
    text = "postgresql+asyncpg://huleedu_user:secret@localhost:5435/huleedu_orders"
    assert url().reveal() == text
    development = settings(HULEEDU_DB_USER="huleedu_user", HULEEDU_DB_PASSWORD="secret")
    assert resolve(service(port=5435), development).reveal() == text


@pytest.mark.parametrize(
    ("environment", "database"),
    [("", "orders"), ("development", "orders"), ("testing", "tests"), (" Testing ", "tests")],
)
def test_testing_has_a_database_of_its_own(environment: str, database: str) -> None:
    orders = service(database="orders", testing_database="tests")
    login = {"HULEEDU_DB_USER": "u", "HULEEDU_DB_PASSWORD": "p"}
    found = settings(**login, HULEEDU_ENVIRONMENT=environment)
    assert resolve(orders, found).url.database == database


@pytest.mark.parametrize("environment", ["development", "testing"])
def test_an_override_is_taken_literally_in_testing_too(environment: str) -> None:
    stated = "postgresql+asyncpg://u:p@localhost:5435/huleedu_orders"
    found = settings(**{VARIABLE: stated}, HULEEDU_ENVIRONMENT=environment)
    assert resolve(service(), found).reveal() == stated


@pytest.mark.parametrize(
    ("password", "encoded"),
    [
        ("p@ss#w%rd/1", "p%40ss%23w%25rd%2F1"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("a:b?c&d", "a%3Ab%3Fc%26d"),
        ('it\'s "$x"', "it%27s%20%22%24x%22"),
        ("%40", "%2540"),
        ("ö€", "%C3%B6%E2%82%AC"),
        ("-._~", "-._~"),
    ],
)
def test_user_and_password_are_percent_encoded(password: str, encoded: str) -> None:
    made = url(user=password, password=Secret(password))
    assert (
        made.reveal() == f"postgresql+asyncpg://{encoded}:{encoded}@localhost:5435/huleedu_orders"
    )


@given(user=TEXT, password=TEXT | st.just(""), database=TEXT)
def test_a_built_url_is_parsed_into_the_same_parts(user: str, password: str, database: str) -> None:
    made = url(
        user=user,
        password=Secret(password),
        database=database,
        query=(("ssl", "verify-full"), ("dsn", f"postgresql://?sslrootcert={password}")),
    )
    assert parse_url(made.reveal(), variable=VARIABLE) == made


@given(user=TEXT, password=TEXT)
def test_special_characters_of_the_login_are_encoded(user: str, password: str) -> None:
    login = url(user=user, password=Secret(password)).reveal()[len("postgresql+asyncpg://") :]
    login = login.removesuffix("@localhost:5435/huleedu_orders")
    assert login.isascii()
    assert not set(login) & set(" +@/?#[]&=$'\"\\")
    assert [unquote(part) for part in login.split(":")] == [user, password]


def test_a_password_is_masked_wherever_a_url_is_printed() -> None:
    secret = url(password=Secret("hunter2"))
    resolved = resolve(service(), settings(**{VARIABLE: secret.reveal()}))
    shown = f"{secret} {secret!r} {resolved!r} {[secret]} {secret.__reduce__()!r}"
    assert "hunter2" not in shown
    assert str(secret) == "postgresql+asyncpg://huleedu_user:***@localhost:5435/huleedu_orders"


@pytest.mark.parametrize("name", ["password", "sslpassword"])
def test_a_password_in_the_query_is_masked(name: str) -> None:
    made = url(query=((name, "hunter2"), ("dsn", "postgresql://u:hunter3@h/d")))
    assert "hunter" not in str(made)
    assert "hunter2" in made.reveal()
    assert Secret("hunter2") in made.secrets


def test_without_its_password_a_url_has_neither_password_nor_mask() -> None:
    text = "postgresql+asyncpg://huleedu_user@localhost:5435/huleedu_orders"
    bare = url(password=Secret(""))
    assert bare.reveal() == str(bare) == text


def test_an_address_of_version_6_is_bracketed() -> None:
    made = url(host="::1")
    assert made.address == "[::1]:5435"
    assert parse_url(made.reveal(), variable=VARIABLE) == made


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("localhost.example.com", False)],
)
def test_only_the_loopback_names_are_local(host: str, local: bool) -> None:
    assert url(host=host).is_local is local


@pytest.mark.parametrize(
    "stated",
    [
        "postgresql+asyncpg://u:p%40ss@db.example.com:5432/orders?ssl=require",
        "postgresql://u@h/d",
        "postgres://u:p@H.Example.com/d",
        "  postgresql+psycopg://u:@h:1/d  ",
    ],
)
def test_an_override_is_passed_on_unchanged(stated: str) -> None:
    resolved = resolve(service(), settings(**{VARIABLE: stated}))
    assert (resolved.reveal(), resolved.source) == (stated, VARIABLE)
    assert resolved.is_override


@pytest.mark.parametrize(
    "stated",
    [
        "hunter2",
        "mysql://u:hunter2@h/d",
        "postgresql+asyncpg://u:hunter2#1@h/d",
        "postgresql+asyncpg://u:hunter2/1@h/d",
        "postgresql+asyncpg://u:x[hunter2@h/d",
        "postgresql+asyncpg://u:hunter2@h:port/d",
        "postgresql+asyncpg://u:hunter2@h",
        "postgresql+asyncpg://u:hunter2@h/",
        "postgresql+asyncpg://:hunter2@h/d",
        "postgresql+asyncpg://u:hunter2@/d",
        "postgresql+asyncpg://u:hunter2\N{FULLWIDTH COMMERCIAL AT}h/d",
    ],
)
def test_an_invalid_override_is_an_error_that_does_not_repeat_it(stated: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(service(), settings(**{VARIABLE: stated}))
    error = caught.value
    assert VARIABLE in error.message
    assert "percent-encoded" in error.hint
    said = f"{error.message} {error.hint} {error.findings}"
    assert "hunter2" not in said + "".join(traceback.format_exception(error)).rpartition("\n\n")[2]


@pytest.mark.parametrize(
    ("stated", "host", "port", "shown"),
    [
        ("u:p@/d?host=/var/run/postgresql", "/var/run/postgresql", 5432, ""),
        (
            "u:p@/d?host=/cloudsql/My-Project:eu:db&port=6000",
            "/cloudsql/My-Project:eu:db",
            6000,
            "",
        ),
        ("u:p@%2Fvar%2FRun:6000/d", "/var/Run", 6000, ""),
        ("u:p@/d?unix_sock=/run/pg/.s.PGSQL.5433", "/run/pg", 5433, ""),
        ("u:p@h:1/d?host=other&port=2", "other", 2, "u:***@other:2/d"),
        ("u:p@h/d?host=other:7", "other", 7, "u:***@other:7/d"),
        ("h/d?user=u&password=p", "h", 5432, "u:***@h:5432/d"),
        ("u:p@h?dbname=d", "h", 5432, "u:***@h:5432/d"),
        ("u:p@h/x?database=d&ssl=require", "h", 5432, "u:***@h:5432/d?ssl=require"),
        ("u:p@h/d?password=q%25", "h", 5432, "u:***@h:5432/d"),
    ],
)
def test_connection_parameters_count_in_every_position(
    stated: str, host: str, port: int, shown: str
) -> None:
    parsed = parse_url(f"postgresql+asyncpg://{stated}", variable=VARIABLE)
    assert (parsed.user, parsed.host, parsed.port, parsed.database) == ("u", host, port, "d")
    assert parse_url(parsed.reveal(), variable=VARIABLE) == parsed
    assert parsed.is_socket is host.startswith("/")
    directory = quote(host, safe="/")
    assert str(parsed) == "postgresql+asyncpg://" + (
        shown or f"u:***@/d?host={directory}&port={port}"
    )


@pytest.mark.parametrize("host", ["db.example.com", "10.0.0.1", "::1", "/run/pg"])
def test_the_host_is_read_back_from_an_address(host: str) -> None:
    assert host_of(url(host=host).address) == host


def test_pg8000_gets_a_socket_by_its_own_parameter() -> None:
    parsed = parse_url("postgresql+pg8000://u@/d?host=/run/pg", variable=VARIABLE)
    assert parsed.reveal() == "postgresql+pg8000://u@/d?unix_sock=/run/pg/.s.PGSQL.5432"
    assert parse_url(parsed.reveal(), variable=VARIABLE) == parsed


@pytest.mark.parametrize(
    ("stated", "code"),
    [
        ("postgresql://u:p@h1,h2/d", "url-several-hosts"),
        ("postgresql://u:p@h1:1,h2:2/d", "url-several-hosts"),
        ("postgresql://u:p@/d?host=h1,h2", "url-several-hosts"),
        ("postgresql://u:p@/d?host=h1&host=h2", "url-several-hosts"),
        ("postgresql:///d", "url-incomplete"),
        ("postgresql://h/d", "url-incomplete"),
        ("postgresql://u@h", "url-incomplete"),
        ("postgresql://u@/d", "url-incomplete"),
        ("postgresql://u@a..b/d", "url-host-invalid"),
        ("postgresql://u@-a/d", "url-host-invalid"),
        ("postgresql://u@a b/d", "url-host-invalid"),
        ("postgresql://u@h/d?service=x", "url-parameter-unsupported"),
        ("postgresql://u@h/d?hostaddr=10.0.0.1", "url-parameter-unsupported"),
        ("postgresql://u@h:0/d", "url-invalid"),
        ("postgresql://u@h:99999/d", "url-invalid"),
        ("mysql://u@h/d", "url-invalid"),
    ],
)
def test_an_unsupported_url_has_a_code(stated: str, code: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(stated, variable=VARIABLE)
    assert caught.value.code == code
    assert VARIABLE in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("prefix", ["PROD", "STAGING"])
@pytest.mark.parametrize(
    ("tls", "query", "understood"),
    [
        ({}, "", {}),
        ({"SSLMODE": "require"}, "?ssl=require", {"sslmode": "require"}),
        (
            {"SSLROOTCERT": "/etc/ssl/ca.pem"},
            "?ssl=verify-full&dsn=postgresql%3A//%3Fsslrootcert%3D/etc/ssl/ca.pem",
            {"sslmode": "verify-full", "sslrootcert": "/etc/ssl/ca.pem"},
        ),
        (
            {"SSLMODE": "verify-ca", "SSLROOTCERT": "/etc/my ca+1.pem"},
            "?ssl=verify-ca&dsn=postgresql%3A//%3Fsslrootcert%3D/etc/my%2520ca%252B1.pem",
            {"sslmode": "verify-ca", "sslrootcert": "/etc/my ca+1.pem"},
        ),
    ],
)
def test_tls_is_added_to_the_url_and_read_back(
    prefix: str, tls: dict[str, str], query: str, understood: dict[str, str]
) -> None:
    environment = "production" if prefix == "PROD" else "staging"
    stated = {"HOST": "h", "PASSWORD": "p", **tls}
    variables = {f"HULEEDU_{prefix}_DB_{name}": value for name, value in stated.items()}
    found = resolve(service(), settings(HULEEDU_ENVIRONMENT=environment, **variables)).url
    assert found.reveal() == f"postgresql+asyncpg://huleedu_user:p@h:5432/huleedu_orders{query}"
    assert found.tls == understood


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+psycopg2", "postgresql"])
@pytest.mark.parametrize(
    ("tls", "query"),
    [
        ({}, ""),
        ({"SSLMODE": "require"}, "?sslmode=require"),
        (
            {"SSLROOTCERT": "/etc/my ca+1.pem"},
            "?sslmode=verify-full&sslrootcert=/etc/my%20ca%2B1.pem",
        ),
    ],
)
def test_another_driver_is_given_its_own_scheme_and_tls_by_the_names_of_libpq(
    scheme: str, tls: dict[str, str], query: str
) -> None:
    variables = {f"HULEEDU_PROD_DB_{name}": value for name, value in tls.items()}
    production = settings(
        HULEEDU_ENVIRONMENT="production",
        HULEEDU_PROD_DB_HOST="h",
        HULEEDU_PROD_DB_PASSWORD="p",
        **variables,
    )
    found = resolve(service(url_scheme=scheme), production).url
    assert found.reveal() == f"{scheme}://huleedu_user:p@h:5432/huleedu_orders{query}"
    assert sorted(found.tls) == sorted(re.findall(r"ssl[a-z]+(?==)", query))
    development = settings(HULEEDU_DB_USER="u", HULEEDU_DB_PASSWORD="p")
    assert resolve(service(url_scheme=scheme), development).reveal().startswith(f"{scheme}://u:p@")


def test_missing_variables_are_reported_once_for_all_services() -> None:
    services = (service("a"), service("b", url_variable="B_URL"), service("c"))
    with pytest.raises(ConfigurationError) as caught:
        resolve_all(services, settings(B_URL="no url"))
    assert [str(finding) for finding in caught.value.findings] == [
        "HULEEDU_DB_USER: is not set",
        "HULEEDU_DB_PASSWORD: is not set",
        "B_URL does not begin with postgresql+asyncpg://.",
    ]


def test_services_are_resolved_by_name() -> None:
    known = settings(HULEEDU_DB_USER="u", HULEEDU_DB_PASSWORD="p")
    resolved = resolve_all((service("a", port=1), service("b", port=2)), known)
    assert {name: resolved_url.url.address for name, resolved_url in resolved.items()} == {
        "a": "localhost:1",
        "b": "localhost:2",
    }


def test_the_children_that_cannot_import_this_package_know_the_same_loopback_names() -> None:
    assert set(target_check.LOOPBACK) == set(first_connection.LOOPBACK) == set(LOOPBACK)
