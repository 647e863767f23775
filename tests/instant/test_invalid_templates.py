"""A template that is incomplete, foreign or out of date is never used."""

from collections.abc import Iterator

import pytest

from tests.support.db_runs import without_initdb
from tests.support.instant import (
    COPIED,
    REBUILT,
    Reset,
    maintain,
    reset,
    resets,
    tag_of,
    templates,
)
from tests.support.monorepo import ENV_PY, Monorepo, new_monorepo
from tests.support.observe import notes
from tests.support.postgres import ask
from tests.support.prepared import running_monorepo

NO_TEMPLATE = Reset(REBUILT, "rebuilt: no template yet")
SEEDED = "first second"
EDITS_AN_INPUT = """\
from pathlib import Path
path = Path(__file__).parents[{up}] / {path!r}
path.write_text(path.read_text() + "# edited\\n")
"""


@pytest.fixture(scope="module")
def alone() -> Iterator[Monorepo]:
    with running_monorepo(["alpha"]) as made:
        yield made


@pytest.fixture
def template(alone: Monorepo) -> str:
    """Return the only template, which was just saved."""
    for name in templates(alone):
        maintain(alone, "alpha", f"DROP DATABASE {name}")
    how = reset(alone).how
    assert len(templates(alone)) == 1, how
    (name,) = templates(alone)
    return name


def test_a_template_accepts_no_connections_and_its_tag_has_the_inputs(
    alone: Monorepo, template: str
) -> None:
    closed = "SELECT NOT datallowconn FROM pg_database WHERE datname = '{}'".format
    assert maintain(alone, "alpha", closed(template)) == [(True,)]
    assert tag_of(alone, "alpha", template)["parts"].keys() >= {
        "its registry entry",
        "its files",
        "the settings",
        "the server",
    }
    assert "parts" not in tag_of(alone, "alpha", "huleedu_alpha")


def comment_on(template: str, tag: str) -> tuple[str, ...]:
    return (f"COMMENT ON DATABASE {template} IS {tag}",)


def test_a_template_without_inputs_in_its_tag_is_replaced(alone: Monorepo, template: str) -> None:
    for tag in (
        "NULL",
        "'a comment of a user'",
        """'huleedu-tasks {"environment": "development"}'""",
        """'huleedu-tasks {"environment": "development", "parts": {}}'""",
        """'huleedu-tasks {"environment": "develop'""",
        """'huleedu-tasks {"environment": "development", "of_next_year": 1}'""",
    ):
        maintain(alone, "alpha", *comment_on(template, tag))
        assert reset(alone) == NO_TEMPLATE, tag
        assert notes(alone, "alpha") == SEEDED
        (template,) = templates(alone)
    assert reset(alone).detail == COPIED


def test_a_template_of_another_environment_is_not_used(alone: Monorepo, template: str) -> None:
    ((comment,),) = maintain(
        alone,
        "alpha",
        f"SELECT shobj_description(oid, 'pg_database') FROM pg_database"
        f" WHERE datname = '{template}'",
    )
    other = comment.replace('"development"', '"production"').replace("'", "''")
    maintain(alone, "alpha", *comment_on(template, f"'{other}'"))
    assert reset(alone).detail == REBUILT
    assert notes(alone, "alpha") == SEEDED


def opened(alone: Monorepo, template: str, *statements: str) -> None:
    maintain(alone, "alpha", f"ALTER DATABASE {template} ALLOW_CONNECTIONS true")
    ask(alone.url("alpha", database=template), *statements)


def test_a_template_that_was_opened_for_connections_is_not_used(
    alone: Monorepo, template: str
) -> None:
    opened(alone, template, "DELETE FROM note")
    assert reset(alone).detail == REBUILT
    assert notes(alone, "alpha") == SEEDED
    assert reset(alone).detail == COPIED
    assert notes(alone, "alpha") == SEEDED


def test_a_template_at_a_different_revision_is_not_used(alone: Monorepo, template: str) -> None:
    opened(alone, template, "UPDATE alembic_version SET version_num = 'z9'")
    maintain(alone, "alpha", f"ALTER DATABASE {template} ALLOW_CONNECTIONS false")
    assert reset(alone) == NO_TEMPLATE
    assert notes(alone, "alpha") == SEEDED
    assert reset(alone).detail == COPIED


def test_an_invalid_tag_on_the_database_is_refused(alone: Monorepo) -> None:
    """An invalid tag on a template only makes the template invalid."""
    maintain(alone, "alpha", *comment_on("huleedu_alpha", "'huleedu-tasks {'"))
    ran = alone.invoke("db.reset")
    assert ran.code != 0
    assert "could not be parsed" in ran.out
    maintain(alone, "alpha", *comment_on("huleedu_alpha", "NULL"))
    assert alone.invoke("db.reset").code == 0


# Changes during the build.


@pytest.fixture(scope="module")
def restless() -> Iterator[Monorepo]:
    """Services whose migrations and seeds edit their own inputs."""
    with new_monorepo(["own", "shared", "seeded", "calm"], server="one_db") as made:
        without_initdb(made)
        env = "services/{}_service/alembic/env.py".format
        edit = EDITS_AN_INPUT.format
        made.write(env("own"), edit(up=1, path="config.py") + ENV_PY)
        made.write("libs/shared_models.py", "TABLE = 1\n")
        ini = "[alembic]\nscript_location = alembic\npath_separator = os\n"
        made.write("services/shared_service/alembic.ini", f"{ini}prepend_sys_path = .:../../libs\n")
        edited = edit(up=3, path="libs/shared_models.py")
        made.write(env("shared"), f"import shared_models\n{edited}{ENV_PY}")
        seed = "database/seed-scripts/seed_seeded.py"
        made.write(seed, edit(up=0, path="seed_seeded.py") + made.read(seed))
        resets(made)
        yield made


@pytest.mark.parametrize("name", ["own", "shared", "seeded"])
def test_a_database_whose_files_changed_during_its_build_is_rebuilt(
    restless: Monorepo, name: str
) -> None:
    assert reset(restless, name).detail == REBUILT
    assert notes(restless, name) == SEEDED


def test_a_service_without_edits_during_the_build_is_copied(restless: Monorepo) -> None:
    assert reset(restless, "calm").detail == COPIED


def test_a_failed_reset_saves_no_template(alone: Monorepo, template: str) -> None:
    seed = alone.read("database/seed-scripts/seed_alpha.py")
    alone.write("database/seed-scripts/seed_alpha.py", "async def seed(connection): 1 / 0\n")
    assert alone.invoke("db.reset").code == 1
    assert templates(alone) == [template]
    alone.write("database/seed-scripts/seed_alpha.py", seed)
    assert reset(alone).detail == COPIED


def test_changes_by_a_later_migrate_are_in_no_template(alone: Monorepo, template: str) -> None:
    """Only a reset saves templates: `db.migrate` may run on any state."""
    ask(alone.url("alpha"), "INSERT INTO note VALUES (9, 'work')")
    revision = alone.add_revision("alpha", "b2", "a1", "ALTER TABLE note ADD COLUMN more text")
    assert alone.invoke("db.migrate", "db.seed").code == 0
    assert templates(alone) == [template]
    assert reset(alone).detail == REBUILT
    assert notes(alone, "alpha") == SEEDED
    revision.unlink()


def test_the_existing_provider_saves_no_templates(alone: Monorepo) -> None:
    for name in templates(alone):
        maintain(alone, "alpha", f"DROP DATABASE {name}")
    for _ in range(2):
        existing = {"HULEEDU_PROVIDER": "existing"}
        assert reset(alone, env=existing) == Reset(REBUILT, None)
    assert templates(alone) == []
    assert notes(alone, "alpha") == SEEDED
