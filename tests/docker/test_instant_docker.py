"""With containers, too: a copy is what a fresh start would be, and nobody is asked twice."""

import io
import json
from collections.abc import Iterator

import pytest

from tests.docker.test_reset import DIRT, INIT_SCRIPT, State, state
from tests.support.docker import IMAGE, SCRIPTS, Docked, engine, new_docked
from tests.support.instant import COPIED, REBUILT, Reset, amend, reset, templates
from tests.support.observe import CommandLines, notes, watched_command_lines
from tests.support.postgres import ask

MEMORY = "containers.json"


@pytest.fixture(scope="module")
def scripted() -> Iterator[Docked]:
    """A database that a script fills at its birth."""
    with new_docked("alpha", mounts=[f"./init.sql:{SCRIPTS}/init.sql:ro"]) as docked:
        docked.write("init.sql", INIT_SCRIPT)
        assert reset(docked).detail == REBUILT
        yield docked


@pytest.fixture(scope="module")
def plain() -> Iterator[Docked]:
    """Two databases without scripts."""
    with new_docked("alpha", "beta") as docked:
        ran = docked.invoke("db.reset")
        assert ran.code == 0, ran.out + ran.err
        yield docked


def test_what_a_script_migrations_and_seeds_have_made_is_the_same_by_a_copy_and_anew(
    scripted: Docked,
) -> None:
    made, life = state(scripted), scripted.lives()
    assert made_by_script_and_seed(made)
    ask(scripted.url("alpha"), *DIRT)
    assert state(scripted) != made
    assert reset(scripted) == Reset(COPIED, COPIED)
    assert state(scripted) == made
    assert reset(scripted, "alpha", "--fresh").detail == REBUILT
    assert state(scripted) == made
    assert scripted.lives() == life
    assert reset(scripted, "alpha", "--volumes").detail == REBUILT
    assert state(scripted) == made
    assert reset(scripted).detail == COPIED
    assert state(scripted) == made


def made_by_script_and_seed(made: State) -> bool:
    return "Europe/Stockholm" in made.about and "row 5" in made.dump and "second" in made.dump


def test_a_script_that_was_edited_is_a_new_beginning(scripted: Docked) -> None:
    script = scripted.read("init.sql")
    scripted.write("init.sql", f"{script}CREATE TABLE legacy.later ();\n")
    assert reset(scripted).detail == REBUILT
    assert "TABLE legacy.later" in state(scripted).dump
    assert reset(scripted).detail == COPIED
    assert "TABLE legacy.later" in state(scripted).dump
    scripted.write("init.sql", script)
    assert reset(scripted).detail == REBUILT
    assert "TABLE legacy.later" not in state(scripted).dump


# What is not asked again.


def compose_commands(lines: CommandLines, docked: Docked) -> set[str]:
    """Return what Compose was asked for this project: `up`, `config` and so on."""
    said = [line.split() for line in lines.seen if "compose" in line and str(docked.root) in line]
    return {word for words in said for word in words if word in ("up", "stop", "config", "create")}


def test_of_what_runs_as_it_is_defined_compose_is_not_even_asked(plain: Docked) -> None:
    lives = plain.lives()
    with watched_command_lines(between=0.002) as lines:
        assert reset(plain).detail == COPIED
    assert not compose_commands(lines, plain)
    assert plain.lives() == lives


def test_a_definition_that_has_changed_is_applied(plain: Docked) -> None:
    lives = plain.lives()
    defined = plain.defined["alpha_db"]
    plain.define(alpha_db={"environment": {**defined["environment"], "ANOTHER": "variable"}})
    assert reset(plain).detail == COPIED
    assert plain.lives()["alpha_db"] != lives["alpha_db"]
    assert "ANOTHER=variable" in plain.container("alpha_db").attrs["Config"]["Env"]


def test_a_name_that_leads_to_another_image_is_applied(plain: Docked) -> None:
    name = f"{plain.project}-image:latest"
    client = engine()
    try:
        image = client.images.get(IMAGE)
        image.tag(name)
        plain.define(alpha_db={"image": name})
        reset(plain)
        built, _ = client.images.build(
            fileobj=io.BytesIO(f"FROM {IMAGE}\nLABEL another=image\n".encode()), tag=name, rm=True
        )
        assert built.id != image.id
        assert reset(plain).detail == COPIED
        assert plain.container("alpha_db").attrs["Image"] == built.id
    finally:
        plain.define(alpha_db={"image": IMAGE})
        assert plain.invoke("db.up").code == 0
        client.images.remove(name, force=True)


@pytest.mark.parametrize("how", ["stop", "kill", "restart", "remove"])
def test_a_container_that_was_ended_or_started_anew_is_found_as_it_is(
    plain: Docked, how: str
) -> None:
    reset(plain)
    container = plain.container("alpha_db")
    if how == "remove":
        container.remove(force=True)
    else:
        getattr(container, how)()
    assert reset(plain).detail == COPIED
    assert notes(plain, "alpha") == "first second"
    assert plain.running() == {"alpha_db", "beta_db"}


def test_a_volume_that_was_made_anew_by_hand_has_no_copies(plain: Docked) -> None:
    plain.compose("rm", "--force", "--stop", "--volumes", "alpha_db")
    engine().volumes.get(f"{plain.project}_alpha_db_data").remove()
    assert reset(plain) == Reset(REBUILT, "rebuilt: no template yet")
    assert reset(plain).detail == COPIED
    assert len(templates(plain)) == 1


def test_a_server_that_was_remembered_is_not_taken_for_another_one(plain: Docked) -> None:
    """Only the answer of the server itself, compared with what is remembered, is a proof."""
    reset(plain)
    alpha, beta = (plain.container(f"{name}_db") for name in ("alpha", "beta"))
    kept = plain.state / MEMORY
    remembered = json.loads(kept.read_text())
    of_alpha, of_beta = (
        next(key for key in remembered if key.startswith(each.id)) for each in (alpha, beta)
    )
    remembered[of_alpha], remembered[of_beta] = remembered[of_beta], remembered[of_alpha]
    kept.write_text(json.dumps(remembered))
    ran = plain.invoke("db.reset", "--service", "alpha", "--json")
    kept.unlink()
    assert ran.code == 3
    assert "another server" in ran.json["services"][0]["detail"]
    assert notes(plain, "alpha") == "first second"


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_memory_that_cannot_be_read_is_no_loss(plain: Docked, text: str) -> None:
    (plain.state / MEMORY).write_text(text)
    assert reset(plain).detail == COPIED
    assert json.loads((plain.state / MEMORY).read_text())


def test_the_memory_holds_no_password_and_no_word_of_the_data(plain: Docked) -> None:
    reset(plain)
    facts = json.loads((plain.state / MEMORY).read_text()).values()
    assert {name for each in facts for name in each} <= {"system identifier", "init scripts"}


def test_two_services_of_one_server_have_copies_of_their_own() -> None:
    with new_docked("alpha") as docked:
        amend(docked, alpha={"compose_service": "alpha_db"})
        docked.add_service("gamma", docked.port("alpha"), compose_service="alpha_db")
        for _ in range(2):
            ran = docked.invoke("db.reset", "--json")
            assert ran.code == 0, ran.out
        assert {row["detail"] for row in ran.json["services"]} == {COPIED}
        docked.add_revision("gamma", "b2", "a1", "CREATE TABLE more ()")
        ran = docked.invoke("db.reset", "--json")
        assert [row["detail"] for row in ran.json["services"]] == [COPIED, REBUILT]
