"""A stranger's first ten minutes, in layouts as public repositories have them.

Each goes from discovery to a reset by template with the commands of the page, and with nothing
written by hand but what discovery asks for or cannot know.

To try every layout: `pytest -n 0 tests/strangers -k first_minutes --rounds 8`.
"""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.first_minutes import LAYOUTS, ByHand, Layout
from tests.support.monorepo import Monorepo, empty_monorepo, free_ports


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take as many layouts as rounds."""
    chosen = LAYOUTS[: 2 * metafunc.config.getoption("--rounds")]
    metafunc.parametrize("layout", chosen, ids=[layout.__name__ for layout in chosen])


@pytest.fixture
def repository() -> Iterator[Monorepo]:
    """Return an empty git repository without any setting of ours."""
    with empty_monorepo("acme") as made:
        (made.root / ".env").unlink()
        subprocess.run(["git", "init", "--quiet", made.root], check=True)
        yield made


def test_the_first_minutes(repository: Monorepo, layout: Layout) -> None:
    (port,) = free_ports(1)
    by_hand = layout(repository.root, port)
    found = repository.invoke("services.discover")
    assert found.code == (1 if "FIXME" in repository.read("services.json") else 0), found.err
    complete(repository, by_hand)
    checked = repository.invoke("services.check", "--json")
    assert checked.code == 0, checked.out
    assert repository.invoke("env.init").code == 0
    first, status, second = (
        repository.invoke(*words, "--json")
        for words in (("db.reset",), ("db.status", "--check"), ("db.reset",))
    )
    assert first.code == 0, f"{first.out}{first.err}"
    assert status.code == 0, status.out
    assert second.code == 0, second.out
    assert {row["detail"] for row in second.json["services"]} == {"copied"}
    said = "".join(each.err for each in (found, checked, first, second))
    assert "HULEEDU_" not in said.replace("HULEEDU_PROVIDER=embedded (environment)", "")


def complete(repository: Monorepo, by_hand: ByHand) -> None:
    """Write into the registry what discovery cannot know."""
    document = json.loads(repository.read("services.json"))
    for entry in document["services"]:
        stated = by_hand.get(entry["name"], {})
        # What discovery asks for, and what it cannot know; nothing that it has found.
        asked = {name for name, value in entry.items() if str(value).startswith("FIXME")}
        assert asked <= stated.keys(), entry
        entry.update(stated)
    assert by_hand.keys() <= {entry["name"] for entry in document["services"]}
    repository.write("services.json", json.dumps(document))
