"""Secrets: masked in output, and found in the output of other programs."""

import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huleedu_tasks.config.secret import MASK, Redactor, Secret, is_ordinary, masked_urls, secrets_in

# Without the mask's own character: "a**" would seem to be in "a" and a mask.
PASSWORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0*"), min_size=3, max_size=20
).filter(lambda text: not is_ordinary(text))
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0*"), max_size=10)
PRINTED: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a URL": lambda text: quote(text, safe=""),
    "in a path": quote,
    "in a form": quote_plus,
    "as SQLAlchemy renders it": lambda text: quote(text, safe=" +"),
    "in a configuration file": lambda text: quote(text, safe="").replace("%", "%%"),
    "in Python": lambda text: repr(text)[1:-1],
    "in Python among other quotes": lambda text: repr(f"'\"{text}")[4:-1],
    "in ASCII Python": lambda text: ascii(text)[1:-1],
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in JSON with all letters": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
}


@given(password=PASSWORDS)
def test_a_secret_shows_a_mask_and_reveals_itself_by_name(password: str) -> None:
    secret = Secret(password)
    assert {f"{secret}", str(secret), f"{secret:}"} == {MASK}
    assert (repr(secret), repr([secret])) == (f"Secret({MASK!r})", f"[Secret({MASK!r})]")
    assert secret.reveal() == password
    assert secret == Secret(password)
    assert len({secret, Secret(password)}) == 1


def test_an_empty_password_is_not_a_secret() -> None:
    assert not Secret("")
    assert (str(Secret("")), Secret("").reveal()) == ("", "")


def test_a_secret_is_not_equal_to_its_string() -> None:
    assert Secret("x") != "x"


@pytest.mark.parametrize("form", PRINTED)
@given(password=PASSWORDS, before=WORDS, after=WORDS)
def test_no_form_of_a_password_survives(form: str, password: str, before: str, after: str) -> None:
    printed = PRINTED[form](password)
    text = f"{before}{printed}{after}"
    shown = Redactor([Secret(password)])(text)
    assert printed not in shown
    assert MASK in shown


@given(passwords=st.lists(PASSWORDS, min_size=2, max_size=4), order=st.randoms())
def test_of_many_passwords_none_survives_even_where_one_contains_another(
    passwords: list[str], order: object
) -> None:
    passwords += [f"{passwords[0]}{passwords[1]}"]
    shown = Redactor(map(Secret, passwords))("\n".join(passwords))
    assert [password for password in passwords if password in shown and password.strip()] == []


@pytest.mark.parametrize("password", ["", "a", "ab"])
def test_a_very_short_password_masks_no_words(password: str) -> None:
    assert Redactor([Secret(password)])("able and abler") == "able and abler"


ORDINARY = ["postgres", "app", "shop", "dev", "huleedu_user", "12345", "changeme", "orders-db"]
READABLE = (
    "postgresql+asyncpg://{0}:***@localhost:5432/{0}",
    "{0}: starting the service {0}_db, port 5616",
    '  File "/srv/{0}/alembic/env.py", line 3, in {0}',
    'role "{0}" does not exist',
    "password authentication failed for user '{0}'",
)


@pytest.mark.parametrize("password", ORDINARY)
@pytest.mark.parametrize("text", READABLE)
def test_a_password_that_is_an_ordinary_word_leaves_names_and_paths_readable(
    password: str, text: str
) -> None:
    shown = text.format(password)
    assert Redactor([Secret(password)])(shown) == shown


@pytest.mark.parametrize("password", ORDINARY)
@pytest.mark.parametrize(
    "text",
    [
        "postgresql+asyncpg://user:{}@localhost/x",
        "postgresql://localhost/x?password={}&sslmode=require",
        "host=localhost password={} dbname=x",
        "host=localhost password='{}'",
        "HULEEDU_DB_PASSWORD={}",
        '"password": "{}"',
        "connect(password='{}')",
        "os.environ['PGPASSWORD'] = '{}'",
        "ALTER ROLE x PASSWORD '{}'",
        "PGPASSWORD: {}",
    ],
)
def test_it_is_masked_in_the_place_of_a_password(password: str, text: str) -> None:
    shown = Redactor([Secret(password)])(text.format(password))
    assert shown == text.format(MASK)


def test_a_password_that_is_a_part_of_a_name_leaves_the_name_readable() -> None:
    redact = Redactor([Secret("orders2025")], names=["/srv/orders2025/services.json"])
    assert redact("in /srv/Orders2025, password=orders2025") == "in /srv/Orders2025, password=***"
    assert Redactor([Secret("orders2025")])("it is orders2025") == "it is ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://a:b%40c@h/d", "mysql://a:***@h/d"),
        ("postgresql://a@h/d?x=1&sslpassword=q", "postgresql://a@h/d?x=1&sslpassword=***"),
        ("postgresql://h/d?PASSWORD=%71#x", "postgresql://h/d?PASSWORD=***#x"),
        ("postgresql+asyncpg://USER:PASSWORD@HOST:PORT/D", None),
        ("postgresql://u:${DB_PASSWORD}@h/d", None),
        ("postgresql://u:[YOUR-PASSWORD]@h/d", None),
        ("http://localhost:8080/a@b", None),
        ("postgresql://u@h:5432/d", None),
    ],
)
def test_every_password_of_a_url_is_masked_and_nothing_else(text: str, shown: str | None) -> None:
    assert masked_urls(f"see {text} there") == f"see {shown or text} there"


def test_secrets_in_an_environment_are_found_by_names_and_values() -> None:
    variables = {
        "PWD": "/srv/app",
        "OLDPWD": "/srv",
        "DB_PASSWORD": "one",
        "SSL_KEY_FILE": "/etc/key.pem",
        "DATABASE_URL": "postgresql://u:t%40wo@h/d",
        "SENTRY_DSN": "https://three@example.com/1",
        "HOME": "/root",
    }
    found = [secret.reveal() for secret in secrets_in(variables)]
    assert found == ["one", "t@wo", "three"]


def test_other_values_are_unchanged() -> None:
    assert Redactor([Secret("hunter2")])("[essay] 100% hunter") == "[essay] 100% hunter"
