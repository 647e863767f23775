"""Monorepos whose databases are containers, each with its own compose project."""

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.children import PROGRAMS, run
from benchmarks.monorepo import COMPOSE_FILE, Monorepo, copy_of_this

PROJECT_VARIABLE = "COMPOSE_PROJECT_NAME"
SCRIPT = "reset-dev-databases.sh"

# The procedure calls Alembic through PDM, or directly if PDM is not installed.
PDM = shutil.which("pdm")
ALEMBIC = f"{PDM} run alembic" if PDM else str(PROGRAMS / "alembic")
PYPROJECT = '[project]\nname = "monorepo"\nversion = "1"\nrequires-python = ">=3.11"\n'
# The procedure that the tasks replace, line by line, of the document "Database Environment
# Separation". What differs: Compose is told its file; only volumes of the project at hand are
# removed; and the variables of .env are exported, as the services read no file.
BEGIN = """\
set -e
set -a; source .env; set +a
"""
REMOVE = f"""
docker compose -f {COMPOSE_FILE} down

docker volume rm -f $(docker volume ls -q | grep -E "^${{{PROJECT_VARIABLE}}}_\
(batch_orchestrator|essay_lifecycle|cj_assessment|class_management|file_service|spellchecker\
|result_aggregator|nlp)_db_data")
"""
START = f"""
docker compose -f {COMPOSE_FILE} up -d batch_orchestrator_db essay_lifecycle_db cj_assessment_db \
class_management_db file_service_db spellchecker_db result_aggregator_db nlp_db
"""
SLEEP = """
sleep 10
"""
# The shortest wait that works: the server that initialises a volume has no TCP port.
WAIT = f"""
for database in batch_orchestrator essay_lifecycle cj_assessment class_management \
file_service spellchecker result_aggregator nlp; do
    until docker compose -f {COMPOSE_FILE} exec -T "${{database}}_db" \
pg_isready --quiet --host=127.0.0.1; do sleep 0.1; done
done
"""
MIGRATE = f"""
services=("batch_orchestrator" "essay_lifecycle" "cj_assessment" "class_management" \
"file_service" "spellchecker" "result_aggregator" "nlp")

for service in "${{services[@]}}"; do
    if [ -d "services/${{service}}_service" ]; then
        (cd "services/${{service}}_service" && {ALEMBIC} upgrade head)
    fi
done
"""
AS_WRITTEN = (REMOVE, START, SLEEP, MIGRATE)


def why_no_docker() -> str:
    """Return why Docker cannot be measured here; an empty string if it can."""
    if not shutil.which("docker"):
        return "there is no `docker` on PATH"
    if not said_by("docker", "version", "--format", "{{.Server.Version}}"):
        return "no Docker Engine answers"
    if not said_by("docker", "compose", "version", "--short"):
        return "there is no Compose v2"
    return ""


def said_by(*command: str) -> str:
    """Return the output of a command; an empty string if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@contextmanager
def docked_copy(scratch: Path) -> Iterator[Monorepo]:
    """Copy this repository, its databases in containers; remove all of them at the end."""
    variables = {
        "HULEEDU_PROVIDER": "docker",
        PROJECT_VARIABLE: f"huleedu-benchmark-{secrets.token_hex(6)}",
    }
    with copy_of_this(scratch, "docker", **variables) as monorepo:
        try:
            yield monorepo
        finally:
            remove_containers(monorepo)


def remove_containers(monorepo: Monorepo) -> None:
    """Remove the containers, volumes and networks, and the state directory."""
    compose(monorepo, "down", "--volumes", "--remove-orphans", "--timeout", "5")
    monorepo.remove_servers()


def compose(monorepo: Monorepo, *arguments: str) -> None:
    """Run plain `docker compose`."""
    command = ["docker", "compose", "-f", COMPOSE_FILE, *arguments]
    run(command, cwd=monorepo.root, environment=monorepo.environment)


def follow_procedure(monorepo: Monorepo, parts: Sequence[str] = AS_WRITTEN) -> None:
    """Reset the databases by the document's procedure, or carry out some parts of it."""
    (monorepo.root / SCRIPT).write_text("".join([BEGIN, *parts]), encoding="utf-8")
    (monorepo.root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    environment = {**monorepo.environment, "VIRTUAL_ENV": sys.prefix}
    run(["bash", SCRIPT], cwd=monorepo.root, environment=environment)
