"""What child processes receive of the secrets in `.env`, recorded by the children themselves."""

import json
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.db_runs import without_initdb
from tests.support.monorepo import ENV_PY, SEED, Monorepo, new_monorepo

SECRETS = {
    "HULEEDU_PROD_DB_PASSWORD": "secret-of-production",
    "HULEEDU_STAGING_DB_PASSWORD": "secret-of-staging",
    "ALPHA_SERVICE_DIRECT_DATABASE_URL": "postgresql://u:secret-of-direct@db.example.com/alpha",
}
RECORD = """\
import json, os
with open({file!r}, "a") as record:
    record.write(json.dumps(dict(os.environ)) + "\\n")
"""
PROGRAM = f"""\
#!{sys.executable}
import json, os, sys
with open({{file!r}}, "a") as record:
    record.write(json.dumps(dict(os.environ)) + "\\n")
if {{real!r}}:
    os.execv({{real!r}}, [{{real!r}}, *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monorepo]:
    """Return a monorepo with secrets in `.env`, whose children record their environments."""
    directory = tmp_path_factory.mktemp("records")
    with new_monorepo(["alpha"]) as made:
        without_initdb(made)
        lines = [f"{name}={value}\n" for name, value in SECRETS.items()]
        made.write(".env", "".join([made.read(".env"), *lines]))
        for path, text in (
            ("services/alpha_service/alembic/env.py", ENV_PY),
            ("database/seed-scripts/seed_alpha.py", SEED),
        ):
            record = RECORD.format(file=str(directory / Path(path).stem))
            made.path(path).write_text(record + text)
        made.write("compose.yaml", "services: {alpha_db: {image: 'postgres:15'}}\n")
        programs = directory / "bin"
        programs.mkdir()
        for name in ("docker", "psql", "tail"):
            program = programs / name
            real = "" if name == "docker" else shutil.which(name) or ""
            program.write_text(PROGRAM.format(file=str(directory / name), real=real))
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        made.environment["PATH"] = f"{programs}:/usr/bin:/bin"
        made.environment["RECORDS"] = str(directory)
        assert made.invoke("db.reset").code == 0
        yield made


def recorded(monorepo: Monorepo, name: str) -> list[dict[str, str]]:
    """Return the environments that a child has recorded, at least one."""
    lines = Path(monorepo.environment["RECORDS"], name).read_text().splitlines()
    assert lines
    return [json.loads(line) for line in lines]


def assert_no_secret(monorepo: Monorepo, name: str) -> None:
    for environment in recorded(monorepo, name):
        assert "secret-of" not in json.dumps(environment)


def test_migrations_and_seeds_get_no_secret_of_production(recording: Monorepo) -> None:
    assert_no_secret(recording, "env")
    assert_no_secret(recording, "seed_alpha")


@pytest.mark.parametrize("command", ["services.check", "services.discover"])
def test_observed_code_and_compose_get_no_secret_of_production(
    recording: Monorepo, command: str
) -> None:
    more = ("--overwrite", "--dry-run") if command == "services.discover" else ()
    recording.invoke(command, "--json", *more)
    assert_no_secret(recording, "env")
    assert_no_secret(recording, "docker")


@pytest.mark.parametrize("exported", [False, True])
def test_tail_gets_no_secret(recording: Monorepo, exported: bool) -> None:
    variables = SECRETS if exported else {}
    assert recording.invoke("db.logs", env=variables).code == 0
    assert_no_secret(recording, "tail")


@pytest.mark.skipif(not shutil.which("psql"), reason="there is no `psql` on PATH")
@pytest.mark.parametrize("exported", [False, True])
def test_psql_gets_no_secret(recording: Monorepo, exported: bool) -> None:
    # The embedded servers may have a `psql` of their own.
    variables = {**(SECRETS if exported else {}), "HULEEDU_PROVIDER": "existing"}
    ran = recording.invoke("db.shell", "--command", "SELECT 1", env=variables)
    assert ran.code == 0, ran.err
    assert_no_secret(recording, "psql")


def test_secrets_that_no_child_gets_do_not_invalidate_a_template(recording: Monorepo) -> None:
    recording.invoke("db.reset")
    warm = recording.invoke("db.reset", "--json")
    changed = {"HULEEDU_PROD_DB_PASSWORD": "secret-of-another-day"}
    again = recording.invoke("db.reset", "--json", env=changed)
    details = [ran.json["services"][0]["detail"] for ran in (warm, again)]
    assert details == ["copied", "copied"]
