"""The first ten minutes of a new user, in layouts of public repositories.

Every test runs the commands of docs/adoption.md from discovery to a reset from a template. It edits
the registry only where discovery asks a question or cannot detect a value.

To try every layout: `pytest -n 0 tests/strangers -k first_minutes --rounds 8`.
"""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.first_minutes import LAYOUTS, ByHand, Layout
from tests.support.monorepo import Monorepo, empty_monorepo, free_ports


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take two layouts per round."""
    chosen = LAYOUTS[: 2 * metafunc.config.getoption("--rounds")]
    metafunc.parametrize("layout", chosen, ids=[layout.__name__ for layout in chosen])


@pytest.fixture
def repository() -> Iterator[Monorepo]:
    """Return an empty Git repository without settings of the tasks."""
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
    said = "".join(ran.err for ran in (found, checked, first, second))
    assert "HULEEDU_" not in said.replace("HULEEDU_PROVIDER=embedded (environment)", "")


def complete(repository: Monorepo, by_hand: ByHand) -> None:
    """Write the values into the registry that discovery cannot detect."""
    document = json.loads(repository.read("services.json"))
    for entry in document["services"]:
        stated = by_hand.get(entry["name"], {})
        # Only open questions and undetectable fields; no field that discovery has found.
        asked = {name for name, value in entry.items() if str(value).startswith("FIXME")}
        assert asked <= stated.keys(), entry
        entry.update(stated)
    assert by_hand.keys() <= {entry["name"] for entry in document["services"]}
    repository.write("services.json", json.dumps(document))
