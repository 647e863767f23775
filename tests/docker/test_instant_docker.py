"""Resets of containers from templates; Compose runs only after a change."""

import io
import json
from collections.abc import Iterator

import pytest

from tests.support.docker import IMAGE, Docked, engine, new_docked
from tests.support.instant import COPIED, REBUILT, Reset, reset, templates
from tests.support.observe import CommandLines, notes, watched_command_lines

CACHE = "containers.json"


@pytest.fixture(scope="module")
def plain() -> Iterator[Docked]:
    """Two databases without init scripts."""
    with new_docked("alpha", "beta") as docked:
        ran = docked.invoke("db.reset")
        assert ran.code == 0, ran.out + ran.err
        yield docked


# The cache of containers and configuration.


def compose_commands(lines: CommandLines, docked: Docked) -> set[str]:
    """Return the commands of Compose that ran for this project: `up`, `config` and so on."""
    commands = [
        line.split() for line in lines.seen if "compose" in line and str(docked.root) in line
    ]
    return {
        word for words in commands for word in words if word in ("up", "stop", "config", "create")
    }


def test_compose_does_not_run_for_containers_that_match_the_compose_file(plain: Docked) -> None:
    lives = plain.lives()
    with watched_command_lines() as lines:
        assert reset(plain).detail == COPIED
    assert not compose_commands(lines, plain)
    assert plain.lives() == lives


def test_a_changed_compose_service_is_applied(plain: Docked) -> None:
    lives = plain.lives()
    defined = plain.defined["alpha_db"]
    plain.define(alpha_db={"environment": {**defined["environment"], "ANOTHER": "variable"}})
    assert reset(plain).detail == COPIED
    assert plain.lives()["alpha_db"] != lives["alpha_db"]
    assert "ANOTHER=variable" in plain.container("alpha_db").attrs["Config"]["Env"]


def test_an_image_tag_that_resolves_to_another_image_is_applied(plain: Docked) -> None:
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


@pytest.mark.parametrize("how", ["kill", "restart", "remove"])
def test_a_container_that_was_killed_restarted_or_removed_is_detected(
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


def test_a_volume_that_the_user_recreated_has_no_templates(plain: Docked) -> None:
    plain.compose("rm", "--force", "--stop", "--volumes", "alpha_db")
    engine().volumes.get(f"{plain.project}_alpha_db_data").remove()
    assert reset(plain) == Reset(REBUILT, "rebuilt: no template yet")
    assert reset(plain).detail == COPIED
    assert len(templates(plain)) == 1


def test_a_cached_identity_of_another_server_is_refused(plain: Docked) -> None:
    """A cached identity is compared with the one that the server reports."""
    reset(plain)
    alpha, beta = (plain.container(f"{name}_db") for name in ("alpha", "beta"))
    path = plain.state / CACHE
    cached = json.loads(path.read_text())
    of_alpha, of_beta = (
        next(key for key in cached if key.startswith(server.id)) for server in (alpha, beta)
    )
    cached[of_alpha], cached[of_beta] = cached[of_beta], cached[of_alpha]
    path.write_text(json.dumps(cached))
    ran = plain.invoke("db.reset", "--service", "alpha", "--json")
    path.unlink()
    assert ran.code == 3
    assert "another server" in ran.json["services"][0]["detail"]
    assert notes(plain, "alpha") == "first second"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_an_unreadable_cache_is_rebuilt(plain: Docked, text: str) -> None:
    (plain.state / CACHE).write_text(text)
    assert reset(plain).detail == COPIED
    assert json.loads((plain.state / CACHE).read_text())


def test_the_cache_has_neither_passwords_nor_data(plain: Docked) -> None:
    reset(plain)
    facts = json.loads((plain.state / CACHE).read_text()).values()
    assert {name for container in facts for name in container} <= {
        "system identifier",
        "init scripts",
    }
