"""The names of the plugin's databases, and which test runs have ended."""

from pathlib import Path

import pytest

from huleedu_tasks.errors import Finding, HuleEduError
from huleedu_tasks.testing.failures import error_text
from huleedu_tasks.testing.runs import Run, own_name, owner_of, token_of_run

ONE, OTHER = token_of_run("one"), token_of_run("other")


def run(directory: Path, token: str = ONE, worker: str = "gw0") -> Run:
    return Run(directory=directory, token=token, worker=worker)


@pytest.mark.parametrize("database", ["orders", "o" * 63, "ö" * 40])
def test_a_name_is_recognisable_and_fits(database: str) -> None:
    name = own_name(ONE, "gw0", "1", database=database)
    assert len(name.encode()) <= 63
    assert owner_of(name) == ONE
    assert name != own_name(ONE, "gw0", "1", database=f"{database[:-1]}x")


@pytest.mark.parametrize("name", ["orders", "pytest_orders", f"my_pytest_{ONE}_x", "pytest_head_a"])
def test_other_databases_belong_to_no_run(name: str) -> None:
    assert owner_of(name) == ""


def test_a_run_has_ended_when_its_last_worker_has(tmp_path: Path) -> None:
    first, second, other = run(tmp_path), run(tmp_path, worker="gw1"), run(tmp_path, OTHER)
    for one in (first, second, other):
        one.begin()
    assert not first.leave()
    assert not other.has_ended(ONE, is_ours=True)
    assert second.leave()
    # It holds the lock until it has dropped everything.
    assert not other.has_ended(ONE, is_ours=True)
    second.end()
    assert other.has_ended(ONE, is_ours=True)
    assert not (tmp_path / ONE).exists()


def test_a_run_of_which_nothing_is_known_has_ended_if_it_is_of_this_checkout(
    tmp_path: Path,
) -> None:
    own = run(tmp_path)
    own.begin()
    assert own.has_ended(OTHER, is_ours=True)
    assert not own.has_ended(OTHER, is_ours=False)
    assert not own.has_ended(ONE, is_ours=True)


def test_directories_of_running_tests_are_kept(tmp_path: Path) -> None:
    ended, running, own = run(tmp_path, "0" * 10), run(tmp_path, OTHER), run(tmp_path)
    for one in (ended, running, own):
        one.begin()
    # As a killed process leaves it.
    ended._lock.release()
    own.forget_ended()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ONE, OTHER])


def test_results_are_shared_by_the_workers(tmp_path: Path) -> None:
    first, second = run(tmp_path), run(tmp_path, worker="gw1")
    for one in (first, second):
        one.begin()
    with first.results() as results:
        results["alpha"] = {"template": "t"}
    with second.results() as results:
        assert results == {"alpha": {"template": "t"}}
    assert first.is_first("alpha")
    assert not second.is_first("alpha")


def test_an_error_names_commands_that_need_no_tasks_file() -> None:
    findings = [Finding(place="A", problem="is not set")]
    error = HuleEduError("No A.", code="missing", hint="Run `invoke env.init`.", findings=findings)
    assert error_text(error) == (
        "No A. [missing]\n  - A: is not set\nWhat to do: Run `huleedu env.init`."
    )
