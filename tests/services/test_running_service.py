"""A service serves while its database is reset and migrated, and follows the environment."""

from collections.abc import Iterator

import pytest

from tests.support.instant import reset
from tests.support.monorepo import Monorepo, wait_until
from tests.support.postgres import ask
from tests.support.production import Production, new_production
from tests.support.running import (
    DIRECTORY,
    LIMIT,
    NAME,
    Running,
    log,
    monorepo_of_the_service,
    running,
    start,
)

REVISION = "SELECT version_num FROM alembic_version"
NEW_CLASS = {
    "course_code": "ENG7",
    "teacher_id": "7eac4000-7e57-4000-8000-0000000000ff",
    "name": "Engelska 7, grupp C",
    "school": "Fjällängens gymnasium",
    "school_year": "2026/2027",
}
UNAVAILABLE = {"detail": "The database is not available. Try again."}


@pytest.fixture(scope="module")
def repository() -> Iterator[Monorepo]:
    """Return a copy of this repository in which the service's database is reset."""
    with monorepo_of_the_service() as made:
        reset(made, NAME)
        yield made


@pytest.fixture(scope="module")
def service(repository: Monorepo) -> Iterator[Running]:
    """Return the service, running in development."""
    with running(repository) as served:
        yield served


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    """Return a production whose database of the service is at a revision of its own."""
    with new_production([NAME]) as made:
        yield made


def revision(monorepo: Monorepo) -> str:
    """Return the revision of the development database."""
    ((found,),) = ask(monorepo.url(NAME), REVISION)
    return str(found)


def test_classes_are_listed_created_and_read(service: Running) -> None:
    (seeded,) = service.get("/classes").json
    assert len(service.get(f"/classes/{seeded['id']}/students").json) == 13
    created = service.post("/classes", NEW_CLASS)
    assert created.status == 201
    assert service.get(f"/classes/{created.json['id']}").json == created.json
    by_teacher = service.get(f"/classes?teacher_id={NEW_CLASS['teacher_id']}")
    assert by_teacher.json == [created.json]


def test_a_refused_class_has_the_status_of_its_reason(service: Running) -> None:
    (seeded, *_) = service.get("/classes").json
    copied = {name: value for name, value in seeded.items() if name != "id"}
    assert service.post("/classes", copied).status == 409
    assert service.post("/classes", {**NEW_CLASS, "name": "D", "course_code": "NO"}).status == 422
    for refused in ({"school_year": "2026"}, {"name": "\0"}, {"course_code": "LONGER-THAN-8"}):
        assert service.post("/classes", NEW_CLASS | refused).status == 422
    assert service.get(f"/classes/{seeded['teacher_id']}").status == 404


def test_health_has_the_environment_and_the_revision(
    repository: Monorepo, service: Running
) -> None:
    assert service.get("/health").json == {"environment": "development"}
    assert service.get("/health/database").json == {
        "environment": "development",
        "revision": revision(repository),
    }


@pytest.mark.parametrize("flags", [(), ("--fresh",)], ids=["copied", "rebuilt"])
def test_the_service_reconnects_by_itself_after_a_reset(
    repository: Monorepo, service: Running, flags: tuple[str, ...]
) -> None:
    with service.asked_without_pause("/classes") as statuses:
        ran = repository.invoke("db.reset", "--service", NAME, *flags)
    assert ran.code == 0, ran.err
    assert set(statuses) <= {200, 503}, log(repository)
    assert len(service.get("/classes").json) == 1


def test_the_service_serves_during_a_migration_and_reads_the_changed_table(
    repository: Monorepo, service: Running
) -> None:
    alter = "ALTER TABLE classes ALTER COLUMN school TYPE varchar(200)"
    path = repository.add_revision(NAME, "ff", revision(repository), alter, "SELECT pg_sleep(0.3)")
    with service.asked_without_pause("/classes") as statuses:
        ran = repository.invoke("db.migrate", "--service", NAME)
    path.unlink()
    assert ran.code == 0, ran.err
    assert set(statuses) == {200}
    assert service.get("/classes").status == 200
    assert service.get("/health/database").json["revision"] == "ff"
    reset(repository, NAME)


def test_the_pool_survives_a_restart_of_the_server(repository: Monorepo, service: Running) -> None:
    assert repository.invoke("db.down", "--service", NAME).code == 0
    answer = service.get("/health/database")
    assert (answer.status, answer.json) == (503, UNAVAILABLE)
    assert service.get("/health").status == 200
    assert repository.invoke("db.up", "--service", NAME).code == 0
    assert service.get("/health/database").status == 200


def test_an_edit_of_a_source_file_is_served(repository: Monorepo) -> None:
    source = f"{DIRECTORY}/routes.py"
    with running(repository, "--reload", "--reload-dir", DIRECTORY) as served:
        before = repository.read(source)
        assert served.get("/groups").status == 404
        repository.write(source, before.replace('prefix="/classes"', 'prefix="/groups"'))
        wait_until(lambda: served.is_up() and served.get("/groups").status == 200)
    repository.write(source, before)


def test_the_toggle_alone_selects_the_production_server(
    repository: Monorepo, production: Production
) -> None:
    with running(repository, **production.variables) as served:
        assert served.get("/health").json == {"environment": "production"}
        # The revision of the production server, which accepts the role over TLS only.
        assert served.get("/health/database").json == {
            "environment": "production",
            "revision": "a1",
        }
        # A database without the tables of this version.
        assert served.get("/classes").json == UNAVAILABLE


def test_production_without_its_variables_does_not_start_in_development(
    repository: Monorepo,
) -> None:
    process = start(repository, "--port", "0", HULEEDU_ENVIRONMENT="production")
    assert process.wait(LIMIT) != 0
    missing = "HULEEDU_PROD_DB_HOST and HULEEDU_PROD_DB_PASSWORD must be set"
    assert missing in log(repository)
