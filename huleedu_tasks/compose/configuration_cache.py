"""A cache of the configuration that Compose resolves from its files and variables.

Running Compose takes longer than a copy of a database. Its result depends only on its files and
variables. If a file refers to further files, the cache is not used.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from huleedu_tasks.compose.docker_compose import Compose, Project
from huleedu_tasks.compose.json_file import read_document, write_document
from huleedu_tasks.config.dotenv import ENV_FILE

# Keys that refer to further files, which are not in the key (Compose specification).
_REFERS_TO_FILES = re.compile(r"\b(include|extends|env_file|label_file|file)\b[\"']?\s*:|\\u|\\x")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALWAYS_READ = ("COMPOSE_", "DOCKER_")
_NAMES_MORE_FILES = "COMPOSE_ENV_FILES"
# Where the `docker` command looks for the plugin Compose (Docker CLI, cli-plugins/manager).
_PLUGIN_DIRECTORIES = (
    "~/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeAnswers:
    """The cache, a JSON file in the state directory.

    Attributes:
        path: The path of the file, which contains no values of variables.
    """

    compose: Compose
    path: Path

    async def project(self) -> Project:
        """Return the resolved configuration, from the cache if its key is unchanged.

        Raises:
            HuleEduError: As `Compose.project`.
        """
        key = key_of(self.compose)
        cached = read_document(self.path)
        if key and cached.get("key") == key:
            return Project(**cached["project"])
        project = await self.compose.project()
        if key and project.hashes:
            write_document(self.path, {"key": key, "project": asdict(project)})
        return project


def key_of(compose: Compose) -> str:
    """Return a digest of all inputs of Compose; empty if they include files that are not known."""
    contents = {
        str(path): _content(path) for path in (*compose.possible_files, *_env_files(compose))
    }
    files = [contents[str(path)] for path in compose.possible_files]
    if compose.environment.get(_NAMES_MORE_FILES) or any(map(_REFERS_TO_FILES.search, files)):
        return ""
    words = {word for content in contents.values() for word in _WORD.findall(content)}
    variables = {
        name: value
        for name, value in compose.environment.items()
        if name in words or name.startswith(_ALWAYS_READ) or name == "HOME"
    }
    inputs = [compose.command(), str(compose.root), contents, variables, list(_programs(compose))]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _env_files(compose: Compose) -> list[Path]:
    return [compose.directory / ENV_FILE, compose.root / ENV_FILE]


def _programs(compose: Compose) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and modification time of the programs, which change with their version."""
    docker = shutil.which("docker", path=compose.environment.get("PATH")) or ""
    plugins = (Path(directory).expanduser() / "docker-compose" for directory in _PLUGIN_DIRECTORIES)
    for path in (Path(docker), *plugins):
        if path.is_file():
            facts = path.stat()
            yield str(path), facts.st_size, facts.st_mtime_ns


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
