"""The cache of the resolved compose configuration: its key, and no secrets in it."""

from pathlib import Path

import pytest

from huleedu_tasks import process
from huleedu_tasks.compose.configuration_cache import ComposeAnswers, key_of
from huleedu_tasks.compose.docker_compose import Compose

SECRET = "s3cret"
TEXT = """\
services:
  orders_db: &database
    image: postgres:15
    environment: [POSTGRES_PASSWORD=${PASSWORD}, PASSED_ON]
    ports: ["5433:5432"]
  file_service_db: {<<: *database}
"""
CONFIG = """\
{"name": "shop", "services": {"orders_db": {"image": "postgres:15", "ports": [],
"environment": {"POSTGRES_PASSWORD": "s3cret"}}}}
"""


def compose(root: Path, *files: str, **environment: str) -> Compose:
    return Compose(root=root, files=tuple(root / name for name in files), environment=environment)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "compose.yaml").write_text(TEXT)
    return tmp_path


def test_the_key_is_unchanged_if_no_input_of_compose_changed(root: Path) -> None:
    key = key_of(compose(root, PASSWORD=SECRET, SHLVL="1"))
    assert key == key_of(compose(root, PASSWORD=SECRET, SHLVL="2", TERM="xterm"))
    assert SECRET not in key
    assert len(key) == 64


@pytest.mark.parametrize(
    "environment",
    [
        {"PASSWORD": "another"},
        {"PASSED_ON": "value"},
        {"COMPOSE_PROJECT_NAME": "shop"},
        {"COMPOSE_PROFILES": "all"},
        {"DOCKER_HOST": "unix:///elsewhere"},
        {"HOME": "/elsewhere"},
        {"COMPOSE_FILE": "compose.yaml"},
    ],
)
def test_a_changed_variable_of_compose_changes_the_key(
    root: Path, environment: dict[str, str]
) -> None:
    assert key_of(compose(root)) != key_of(compose(root, **environment))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("compose.yaml", f"{TEXT}# more\n"),
        ("compose.yml", "services: {}"),
        ("docker-compose.yml", "services: {}"),
        ("compose.override.yaml", "services: {}"),
        ("docker-compose.override.yml", "services: {}"),
        (".env", "PASSWORD=another"),
    ],
)
def test_a_changed_file_of_compose_changes_the_key(root: Path, name: str, text: str) -> None:
    before = key_of(compose(root))
    (root / name).write_text(text)
    assert key_of(compose(root)) not in ("", before)


def test_only_named_files_are_part_of_the_key(root: Path) -> None:
    for name in ("one.yml", "two.yml"):
        (root / name).write_text(TEXT)
    named, stated = compose(root, "one.yml"), compose(root, COMPOSE_FILE="one.yml:two.yml")
    before, both = key_of(named), key_of(stated)
    (root / "compose.yaml").write_text("services: {}")
    assert (key_of(named), key_of(stated)) == (before, both)
    (root / "two.yml").write_text("services: {}")
    assert key_of(named) == before
    assert key_of(stated) != both


@pytest.mark.parametrize(
    "line",
    [
        "include: [other.yaml]",
        "x: {extends: {service: base}}",
        "env_file: .env.db",
        '"env_file": .env.db',
        "configs: {settings: {file: ./settings.conf}}",
        "label_file : labels",
        r'"incl\u0075de": [other.yaml]',
    ],
)
def test_files_that_refer_to_others_have_no_key(root: Path, line: str) -> None:
    (root / "compose.yaml").write_text(f"{TEXT}{line}\n")
    assert key_of(compose(root)) == ""


def test_compose_env_files_has_no_key(root: Path) -> None:
    assert key_of(compose(root, COMPOSE_ENV_FILES="a.env,b.env")) == ""


def test_another_version_of_the_programs_changes_the_key(root: Path) -> None:
    programs = root / "bin"
    programs.mkdir()
    docker = programs / "docker"
    keys = set()
    for text in ("first", "second version"):
        docker.write_text(text)
        docker.chmod(0o755)
        keys.add(key_of(compose(root, PATH=str(programs))))
    assert len(keys) == 2


class FakeCompose:
    """A fake of Compose's command line, which counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, hashes: str = "orders_db abc\n") -> None:
        self.calls = 0
        self.hashes = hashes
        monkeypatch.setattr(process, "run", self.run)

    async def run(self, command: list[str], **_: object) -> process.Completed:
        self.calls += 1
        output = self.hashes if "--hash" in command else CONFIG
        return process.Completed(returncode=0, output=output)


async def test_a_cached_configuration_is_used_until_a_file_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCompose(monkeypatch)
    answers = ComposeAnswers(compose=compose(root), path=root / "answers.json")
    first = await answers.project()
    assert await answers.project() == first
    assert fake.calls == 2
    assert (first.name, first.hashes) == ("shop", {"orders_db": "abc"})
    (root / "compose.yaml").write_text(f"{TEXT}# more\n")
    await answers.project()
    assert fake.calls == 4


async def test_no_variable_of_a_container_is_cached(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCompose(monkeypatch)
    path = root / "answers.json"
    await ComposeAnswers(compose=compose(root, PASSWORD=SECRET), path=path).project()
    assert SECRET not in path.read_text()
    assert "postgres:15" in path.read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": 1}', '{"project": {}}'])
async def test_compose_runs_if_the_cache_is_unreadable(
    root: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    fake = FakeCompose(monkeypatch)
    path = root / "answers.json"
    path.write_text(text)
    await ComposeAnswers(compose=compose(root), path=path).project()
    assert fake.calls == 2


async def test_a_configuration_without_hashes_is_not_cached(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeCompose(monkeypatch, hashes="")
    answers = ComposeAnswers(compose=compose(root), path=root / "answers.json")
    await answers.project()
    await answers.project()
    assert fake.calls == 4
