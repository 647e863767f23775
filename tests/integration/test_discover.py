"""`services.discover` on the real command line, with and without a terminal."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from huleedu_tasks.config.registry import load_registry
from tests.support.monorepo import PROJECT, Monorepo, clean_environment, empty_monorepo
from tests.support.repositories import compose, server, service, write
from tests.support.terminal import CONTROL, typed

PASSWORD = "hunter2"
DOWN, ENTER, CTRL_C = "\x1b[B", "\r", "\x03"
REGISTRY = "services.json"


@pytest.fixture
def repository() -> Iterator[Monorepo]:
    """Return a monorepo of one service with a server, and no registry."""
    with empty_monorepo() as made:
        write(made.root, service("services/orders_service"))
        write(made.root, compose(server("orders_db", 5441, "huleedu_orders")))
        yield made


@pytest.fixture
def undecided(repository: Monorepo) -> Monorepo:
    """Return the monorepo with a service that matches two servers."""
    write(repository.root, service("apps/shop", 'URL = "postgresql+asyncpg://u@h/shop"'))
    servers = [server(name, port, "shop") for name, port in (("one", 5442), ("two", 5443))]
    write(repository.root, compose(server("orders_db", 5441, "huleedu_orders"), *servers))
    return repository


@pytest.fixture
def grown(repository: Monorepo) -> Monorepo:
    """Return the monorepo with a registry, and a service that was added later."""
    write(repository.root, service("services/users_service"))
    servers = server("orders_db", 5441, "huleedu_orders"), server("users_db", 5442, "huleedu_users")
    write(repository.root, compose(*servers))
    repository.write(REGISTRY, '{"services": [{"name": "orders", "port": 5440, "seeds": []}]}')
    return repository


STATED = {"name": "orders", "port": 5440, "seeds": []}
ADDED = {"name": "users", "port": 5442}


def services(monorepo: Monorepo) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(monorepo.read(REGISTRY))["services"]
    return found


def screen(child: "pexpect.spawn[str]") -> tuple[int | None, str]:
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus, CONTROL.sub("", str(child.before)).replace("\r", "")


# This repository


@pytest.fixture
def own() -> Iterator[Monorepo]:
    with empty_monorepo() as made:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        for directory in ("services", "database"):
            shutil.copytree(PROJECT / directory, made.root / directory, ignore=ignored)
        shutil.copy(PROJECT / "docker-compose.infrastructure.yml", made.root)
        yield made


def test_the_registry_of_this_repository_is_discovered(own: Monorepo) -> None:
    ran = own.invoke("services.discover")
    assert ran.code == 0, ran.err
    expected = load_registry(PROJECT / REGISTRY)
    found = load_registry(own.path(REGISTRY))
    assert [moved(service, PROJECT) for service in expected.services] == [
        moved(service, own.root) for service in found.services
    ]
    assert [path.name for path in found.compose_files] == ["docker-compose.infrastructure.yml"]
    stated = json.loads(stated_here())["services"]
    assert services(own) == [
        {name: value for name, value in entry.items() if name != "seed_after"} for entry in stated
    ]


def stated_here() -> str:
    return (PROJECT / REGISTRY).read_text(encoding="utf-8")


def moved(service: Any, root: Path) -> dict[str, Any]:
    """Return a service's fields except the order of seeds, which cannot be detected."""
    fields = dataclasses.asdict(dataclasses.replace(service, seed_after=()))
    return {name: str(value).replace(str(root), "") for name, value in fields.items()}


# Without a terminal


def test_a_missing_registry_is_written(repository: Monorepo) -> None:
    ran = repository.invoke("services.discover")
    assert ran.code == 0
    assert services(repository) == [{"name": "orders", "port": 5441}]
    assert "compose.yaml: orders_db" in ran.out
    assert f"wrote {repository.path(REGISTRY)}" in ran.err
    assert "seed_after" in ran.err
    assert "services.list` shows the complete registry" in ran.err
    assert repository.invoke("services.list").code == 0
    again = repository.invoke("services.discover")
    assert again.code == 0
    assert "is up to date." in again.err


@pytest.mark.parametrize(
    "flags", [["services.discover", "--dry-run"], ["--dry", "services.discover"]]
)
def test_a_dry_run_shows_the_registry_and_writes_none(
    repository: Monorepo, flags: list[str]
) -> None:
    ran = repository.invoke(*flags)
    assert ran.code == 0
    assert '{ "name": "orders", "port": 5441 }' in ran.out
    assert not repository.path(REGISTRY).exists()


def test_a_registry_that_differs_is_only_changed_with_the_flag(grown: Monorepo) -> None:
    before = grown.read(REGISTRY)
    ran = grown.invoke("services.discover")
    assert ran.code == 3
    assert '+{"services": [{"name": "orders", "port": 5440, "seeds": []}, ' in ran.out
    assert "pass `--overwrite`" in ran.err
    assert grown.read(REGISTRY) == before
    assert grown.invoke("services.discover", "--dry-run").code == 0
    assert grown.read(REGISTRY) == before
    assert grown.invoke("services.discover", "--overwrite").code == 0
    assert services(grown) == [STATED, ADDED]


def test_stated_values_are_kept_and_differences_are_reported(grown: Monorepo) -> None:
    ran = grown.invoke("services.discover", "--overwrite")
    assert ran.code == 0
    assert "orders: 'port' is 5440 in the registry and was kept; discovery found 5441" in ran.err
    assert grown.invoke("services.discover").code == 0


@pytest.mark.combinations(flags=([], ["--json"]), unbuffered=("", "1"))
def test_a_closed_pipe_does_not_fail_the_command(
    grown: Monorepo, flags: list[str], unbuffered: str
) -> None:
    command = [sys.executable, "-m", "invoke", "services.discover", *flags]
    code, err = without_reader(grown, *command, unbuffered=unbuffered)
    assert code == 3
    assert "Traceback" not in err
    assert "report it" not in err
    assert bool(flags) or err.count("pass `--overwrite`") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_does_not_fail_the_list_of_tasks(grown: Monorepo, unbuffered: str) -> None:
    huleedu = Path(sys.executable).with_name("huleedu")
    assert without_reader(grown, str(huleedu), "--list", unbuffered=unbuffered) == (0, "")


def without_reader(monorepo: Monorepo, *command: str, unbuffered: str) -> tuple[int, str]:
    """Run a command with a closed standard output; return its code and standard error."""
    left, right = os.pipe()
    os.close(left)
    ran = subprocess.run(
        command,
        cwd=monorepo.root,
        env={**clean_environment(), **monorepo.environment, "PYTHONUNBUFFERED": unbuffered},
        stdout=right,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(right)
    return ran.returncode, ran.stderr


def test_the_document_has_everything(undecided: Monorepo) -> None:
    ran = undecided.invoke("services.discover", "--json")
    assert ran.code == 1
    document = ran.json
    assert document["exit_code"] == 1
    assert document["written"] is True
    assert document["path"] == str(undecided.path(REGISTRY))
    assert document["registry"] == json.loads(undecided.read(REGISTRY))
    (row,) = document["unsettled"]
    assert (row["service"], row["field"]) == ("shop", "port")
    assert row["question"] == "5442 (one) or 5443 (two)?"
    assert len(row["choices"]) == 2
    assert {"service", "field", "value", "evidence"} == set(document["fields"][0])


def test_an_open_question_is_refused_by_every_command(undecided: Monorepo) -> None:
    ran = undecided.invoke("services.discover")
    assert ran.code == 1
    assert "Not settled: shop: port: 5442 (one) or 5443 (two)?" in ran.err
    listed = undecided.invoke("services.list")
    assert listed.code == 2
    assert "FIXME: 5442 (one) or 5443 (two)?" in listed.err


def test_a_repository_without_services_is_an_error(repository: Monorepo) -> None:
    shutil.rmtree(repository.path("services"))
    ran = repository.invoke("services.discover")
    assert ran.code == 2
    assert "No service was found" in ran.err


def test_a_directory_outside_any_repository_is_not_searched(repository: Monorepo) -> None:
    repository.path("elsewhere").mkdir()
    ran = repository.invoke("services.discover", cwd="elsewhere")
    assert ran.code == 2
    assert "not-a-repository" in ran.err
    assert not repository.path(f"elsewhere/{REGISTRY}").exists()
    # In an unpacked archive without `.git`, files mark the root.
    assert repository.invoke("services.discover").code == 0


def test_no_password_is_shown_or_written(repository: Monorepo) -> None:
    url = f"postgresql+asyncpg://u:{PASSWORD}@orders_db/huleedu_orders"
    config = f'import os\nURL = os.getenv("ORDERS_DSN", "{url}")\n'
    write(repository.root, service("services/orders_service", config))
    api = f"  api:\n    build: services/orders_service\n    environment: {{ORDERS_DSN: '{url}'}}\n"
    write(repository.root, compose(server("orders_db", 5441).replace("secret", PASSWORD), api))
    write(repository.root, {"services/orders_service/.env": f"ORDERS_DSN='{url}'\n"})
    for flags in ((), ("--json",), ("--overwrite",)):
        ran = repository.invoke("services.discover", *flags)
        assert "ORDERS_DSN" in ran.out + repository.read(REGISTRY)
        assert PASSWORD not in ran.out + ran.err + repository.read(REGISTRY)


# The path of the registry


def test_the_registry_is_at_the_root_of_the_repository_in_every_directory(
    repository: Monorepo,
) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=repository.root, check=True)
    ran = repository.invoke("services.discover", cwd="services/orders_service")
    assert ran.code == 0
    assert services(repository) == [{"name": "orders", "port": 5441}]


def test_the_registry_is_at_the_configured_path(repository: Monorepo) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=repository.root, check=True)
    place = {"HULEEDU_REGISTRY": "ops/registry.json"}
    ran = repository.invoke("services.discover", env=place)
    assert ran.code == 0, ran.err
    (entry,) = json.loads(repository.read("ops/registry.json"))["services"]
    assert entry["directory"] == "../services/orders_service"
    assert repository.invoke("services.list", env=place).code == 0


# On a terminal


def test_the_user_chooses_a_server(undecided: Monorepo) -> None:
    child = typed(undecided, "services.discover")
    child.expect("which port")
    child.send(DOWN + ENTER)
    code, shown = screen(child)
    assert code == 0, shown
    shop = next(service for service in services(undecided) if service["name"] == "shop")
    assert (shop["port"], shop["compose_service"]) == (5443, "two")


@pytest.mark.parametrize(
    ("downs", "code", "port"), [(2, 1, "FIXME: 5442 (one) or 5443 (two)?"), (3, 0, None)]
)
def test_the_user_may_answer_later_or_leave_a_service_out(
    undecided: Monorepo, downs: int, code: int, port: str | None
) -> None:
    child = typed(undecided, "services.discover")
    child.expect("which port")
    child.send(DOWN * downs + ENTER)
    ended, shown = screen(child)
    assert ended == code, shown
    ports = {service["name"]: service["port"] for service in services(undecided)}
    assert ports.get("shop") == port


def test_a_question_that_is_interrupted_writes_nothing(undecided: Monorepo) -> None:
    child = typed(undecided, "services.discover")
    child.expect("which port")
    child.send(CTRL_C)
    code, _ = screen(child)
    assert code == 130
    assert not undecided.path(REGISTRY).exists()


@pytest.mark.parametrize(
    ("answer", "code", "expected"), [("y", 0, [STATED, ADDED]), (ENTER, 3, [STATED])]
)
def test_the_user_confirms_before_a_registry_is_overwritten(
    grown: Monorepo, answer: str, code: int, expected: list[dict[str, Any]]
) -> None:
    child = typed(grown, "services.discover")
    child.expect("Overwrite")
    assert "5442" in CONTROL.sub("", str(child.before))
    child.send(answer)
    ended, shown = screen(child)
    assert ended == code, shown
    assert services(grown) == expected
