"""The content of the sdist and the wheel: all files that are needed, and no others."""

import re
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from huleedu_tasks import __version__
from tests.packaging.distributions import Distributions
from tests.packaging.installations import project
from tests.support.monorepo import PROJECT

PACKAGE = "huleedu_tasks"
NAME = f"{PACKAGE}-{__version__}"


@pytest.fixture(scope="module")
def wheel(distributions: Distributions) -> dict[str, bytes]:
    return contents_of_wheel(distributions.wheel)


@pytest.fixture(scope="module")
def sdist(distributions: Distributions) -> set[str]:
    with tarfile.open(distributions.sdist) as archive:
        return {name.removeprefix(f"{NAME}/") for name in archive.getnames()}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return Parser().parsestr(wheel[f"{NAME}.dist-info/METADATA"].decode())


def contents_of_wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def package_files(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(f"{PACKAGE}/")}


def files_of_this_package() -> set[str]:
    paths = (PROJECT / PACKAGE).rglob("*")
    files = [path for path in paths if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(PROJECT).as_posix() for path in files}


def test_the_wheel_contains_the_package_and_its_license(wheel: dict[str, bytes]) -> None:
    described = {name for name in wheel if name.startswith(f"{NAME}.dist-info/")}
    assert package_files(set(wheel)) == files_of_this_package()
    assert set(wheel) - described == package_files(set(wheel))
    assert {name.partition("/")[2] for name in described} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


@pytest.mark.parametrize("name", ["services.schema.json", "migrations/child/worker.py", "py.typed"])
def test_the_wheel_contains_files_that_are_not_imported(wheel: dict[str, bytes], name: str) -> None:
    assert f"{PACKAGE}/{name}" in wheel


def test_the_sdist_contains_the_files_that_the_wheel_is_built_from(sdist: set[str]) -> None:
    beside = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    assert sdist == beside | files_of_this_package()


def test_the_sdist_gives_the_same_wheel_as_the_repository(
    distributions: Distributions, wheel: dict[str, bytes]
) -> None:
    assert contents_of_wheel(distributions.direct) == wheel


def test_the_readme_is_the_long_description(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (PROJECT / "README.md").read_text(encoding="utf-8")


def test_every_picture_of_the_readme_has_an_absolute_url(metadata: Message) -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)|<img[^>]*src=\"([^\"]*)\"", str(metadata))
    assert all("".join(address).startswith("https://") for address in pictures)


def test_the_metadata_agrees_with_pyproject(metadata: Message) -> None:
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("Classifier") == project()["classifiers"]
    assert metadata["Requires-Python"] == project()["requires-python"]


def test_pytest_finds_the_plugin_and_is_not_installed_with_it(
    wheel: dict[str, bytes], metadata: Message
) -> None:
    entries = wheel[f"{NAME}.dist-info/entry_points.txt"].decode()
    assert "[pytest11]\nhuleedu = huleedu_tasks.testing.plugin" in entries
    required = metadata.get_all("Requires-Dist") or []
    assert not [name for name in required if name.startswith("pytest")]
