"""What Compose makes of its files: asked once, and again only when it may answer otherwise.

Asking takes longer than a copy of a database. Compose reads its files, its variables and nothing
else, unless a file leads to others; then it is asked each time.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from huleedu_tasks.compose.container_cache import read_document, write_document
from huleedu_tasks.compose.docker_compose import Compose, Project
from huleedu_tasks.config.settings import ENV_FILE

# Keys that lead to files which are not looked at here (Compose specification).
_LEADS_ELSEWHERE = re.compile(r"\b(include|extends|env_file|label_file|file)\b[\"']?\s*:|\\u|\\x")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALWAYS_READ = ("COMPOSE_", "DOCKER_")
_NAMES_MORE_FILES = "COMPOSE_ENV_FILES"
# Where the command looks for Compose (Docker CLI, cli-plugins/manager).
_PLUGIN_DIRECTORIES = (
    "~/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeAnswers:
    """What Compose has answered, in a file of the state directory.

    Attributes:
        path: The file; it holds no variable's value.
    """

    compose: Compose
    path: Path

    async def project(self) -> Project:
        """Return the resolved configuration.

        Raises:
            HuleEduError: As `Compose.project`.
        """
        key = key_of(self.compose)
        known = read_document(self.path)
        if key and known.get("key") == key:
            return Project(**known["project"])
        project = await self.compose.project()
        if key and project.hashes:
            write_document(self.path, {"key": key, "project": asdict(project)})
        return project


def key_of(compose: Compose) -> str:
    """Return what tells whether Compose would answer otherwise; empty if that cannot be told."""
    texts = {str(path): _text(path) for path in (*compose.possible_files, *_env_files(compose))}
    files = [texts[str(path)] for path in compose.possible_files]
    if compose.environment.get(_NAMES_MORE_FILES) or any(map(_LEADS_ELSEWHERE.search, files)):
        return ""
    words = {word for text in texts.values() for word in _WORD.findall(text)}
    variables = {
        name: value
        for name, value in compose.environment.items()
        if name in words or name.startswith(_ALWAYS_READ) or name == "HOME"
    }
    told = [compose.command(), str(compose.root), texts, variables, list(_programs(compose))]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _env_files(compose: Compose) -> list[Path]:
    return [compose.directory / ENV_FILE, compose.root / ENV_FILE]


def _programs(compose: Compose) -> Iterator[tuple[str, int, int]]:
    """Return what tells one version of the programs from another."""
    docker = shutil.which("docker", path=compose.environment.get("PATH")) or ""
    plugins = (Path(directory).expanduser() / "docker-compose" for directory in _PLUGIN_DIRECTORIES)
    for path in (Path(docker), *plugins):
        if path.is_file():
            facts = path.stat()
            yield str(path), facts.st_size, facts.st_mtime_ns


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
