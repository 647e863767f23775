"""The revisions of the base branch, from Git."""

import asyncio
import os
from pathlib import Path

import pytest

from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.review.base_branch import Base
from tests.support.git import commit_all
from tests.support.values import service, settings

REVISION = "revision = {id!r}\ndown_revision = {parent!r}\n"
PATH = os.environ["PATH"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with a service whose directory Git quotes, and links in it."""
    versions = tmp_path / "[1] dérivé" / "alembic" / "versions"
    (versions / "more").mkdir(parents=True)
    (tmp_path / "[1] dérivé" / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    (versions / "a1.py").write_text(REVISION.format(id="a1", parent=None))
    (versions / "more" / "a1.py").write_text(REVISION.format(id="b2", parent="a1"))
    (versions / "__init__.py").write_text("")
    (versions / "outside.py").symlink_to("/etc/hostname")
    (versions / "up.py").symlink_to("../../../../elsewhere.py")
    commit_all(tmp_path)
    return tmp_path


def test_quoted_names_are_read_and_links_are_not_followed(repository: Path) -> None:
    own = service(directory=repository / "[1] dérivé")

    async def read() -> set[str]:
        base = await Base.find("HEAD", repository, settings(PATH=PATH))
        return set(await base.revisions(own))

    assert asyncio.run(read()) == {"a1", "b2"}


def test_a_repository_that_git_does_not_read_is_an_error(repository: Path) -> None:
    # Git's own switch for tests of "dubious ownership".
    environment = settings(PATH=PATH, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    with pytest.raises(ConfigurationError, match="dubious ownership") as raised:
        asyncio.run(Base.find("HEAD", repository, environment))
    assert raised.value.code == "base-unknown"


def test_a_commit_whose_files_are_missing_is_an_error(repository: Path) -> None:
    base = Base(ref="main", commit="1" * 40, root=repository, settings=settings(PATH=PATH))
    with pytest.raises(ConfigurationError, match="Git could not read 'main'") as raised:
        asyncio.run(base.revisions(service(directory=repository / "[1] dérivé")))
    assert raised.value.code == "base-unknown"
