"""Secrets: masked where they are printed, and found in what others print."""

import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huleedu_tasks.config.secret import MASK, Redactor, Secret

# Without the mask's own character: "a**" would seem to be in "a" and a mask.
PASSWORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0*"), min_size=Redactor.SHORTEST, max_size=20
)
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


def test_no_password_is_no_secret() -> None:
    assert not Secret("")
    assert (str(Secret("")), Secret("").reveal()) == ("", "")


def test_a_secret_is_not_its_text() -> None:
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
def test_a_password_too_short_to_protect_anything_blanks_out_no_words(password: str) -> None:
    assert Redactor([Secret(password)])("able and abler") == "able and abler"


def test_what_is_no_secret_stays_as_it_is() -> None:
    assert Redactor([Secret("hunter2")])("[essay] 100% hunter") == "[essay] 100% hunter"
