"""The inputs of a build, and their fingerprint."""

import os
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.migrations.inputs import Inputs, Present
from huleedu_tasks.migrations.results import Used
from huleedu_tasks.templates import fingerprint
from tests.support.values import service

LONG_AGO = 1_000_000_000.0
SERVER = "15.18 final"


class Place:
    """A service in a monorepo in a temporary directory, last changed long ago."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("services/orders_service/alembic.ini", "[alembic]")
        self.write("services/orders_service/rows.csv", "PORT = 1")

    def write(self, path: str, text: str, *, changed: float = LONG_AGO) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.utime(file, (changed, changed))
        return file

    def service(self, **stated: object) -> Service:
        directory = self.root / "services/orders_service"
        return service("orders", **{"directory": directory, **stated})

    def inputs(
        self,
        *,
        server: str = SERVER,
        roles: str = "",
        process: dict[str, str] | None = None,
        file: dict[str, str] | None = None,
        **stated: object,
    ) -> Inputs:
        settings = self._settings(process or {}, file or {})
        present = Present.of(settings)
        return fingerprint.inputs_of(
            self.service(**stated), settings, present, server=server, roles=roles
        )

    def changed(self, before: Inputs, **now: object) -> str:
        """Return the first input that changed; empty string if none did."""
        process, file = now.get("process"), now.get("file")
        present = self.present(process=process, file=file)  # type: ignore[arg-type]
        return fingerprint.difference(before, self.inputs(**now), present)  # type: ignore[arg-type]

    def present(
        self, *, process: dict[str, str] | None = None, file: dict[str, str] | None = None
    ) -> Present:
        """Return the current files and variables."""
        return Present.of(self._settings(process or {}, file or {}))

    def _settings(self, process: dict[str, str], file: dict[str, str]) -> Settings:
        return Settings(root=self.root, process=process, file=file, lines=dict.fromkeys(file, 1))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_an_edit_nothing_has_changed(place: Place) -> None:
    assert place.changed(place.inputs()) == ""


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"extensions": ("pg_trgm",)}, "its registry entry"),
        ({"environment": {"A": "b"}}, "its registry entry"),
        ({"python": ("python3",)}, "its registry entry"),
        ({"seed_after": ("other",)}, "its registry entry"),
        ({"file": {"TENANT": "north"}}, "the settings"),
        ({"process": {"HULEEDU_ENVIRONMENT": "testing"}}, "the settings"),
        ({"process": {"HULEEDU_DB_USER": "school_user"}}, "the settings"),
        ({"server": "16.0 final"}, "the server"),
        ({"roles": "reader"}, "the server's roles"),
    ],
)
def test_registry_settings_and_server_are_inputs(
    place: Place, stated: dict[str, object], expected: str
) -> None:
    assert place.changed(place.inputs(), **stated) == expected


@pytest.mark.parametrize(
    "stated",
    [
        {"file": {"HULEEDU_DB_PASSWORD": "a"}},
        {"process": {"HULEEDU_DB_PASSWORD": "a"}},
        {"process": {"HULEEDU_JOBS": "3"}},
        {"process": {"PATH": "/elsewhere"}},
    ],
)
def test_passwords_and_settings_of_the_tasks_are_no_inputs(
    place: Place, stated: dict[str, object]
) -> None:
    assert place.changed(place.inputs(), **stated) == ""


def test_a_variable_that_overrides_the_file_counts(place: Place) -> None:
    before = place.inputs(file={"TENANT": "north"})
    assert place.changed(before, file={"TENANT": "north"}, process={"TENANT": "south"})
    assert not place.changed(before, file={"TENANT": "south"}, process={"TENANT": "north"})


def test_the_value_of_a_variable_that_was_read_is_an_input(place: Place) -> None:
    before = used(place, variables=["REGION", "COLUMNS"])
    assert place.changed(before, process={"SHELL": "fish", "COLUMNS": "80"}) == ""
    assert place.changed(before, process={"REGION": ""}) == "the variable REGION"
    before = used(place, variables=["REGION"], process={"REGION": "north"})
    assert place.changed(before, process={"REGION": "north"}) == ""
    assert place.changed(before, process={"REGION": "south"}) == "the variable REGION"


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"tenants": "2", "A": "b"}, "the names of environment variables"),
        ({"tenants": "5"}, "the variable tenants"),
        ({"tenants": "2", "PWD": "/home", "SSH_TTY": "/dev/pts/1", "TERM": "dumb"}, ""),
    ],
)
def test_every_variable_is_an_input_if_all_were_iterated_over(
    place: Place, now: dict[str, str], expected: str
) -> None:
    before = used(place, all_variables=True, process={"tenants": "2"})
    assert place.changed(before, process=now) == expected


def test_a_variable_of_a_terminal_that_was_read_by_name_is_an_input(place: Place) -> None:
    before = used(place, variables=["PWD"])
    assert place.changed(before, process={"PWD": "/home"}) == "the variable PWD"


@pytest.mark.parametrize("name", ["TZ", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHASHSEED"])
def test_variables_that_an_interpreter_reads_on_startup_are_always_inputs(
    place: Place, name: str
) -> None:
    expected = "the time zone, the locale or PYTHON*"
    assert place.changed(used(place), process={name: "other"}) == expected


def test_only_four_digits_of_the_digest_of_a_secret_are_stored(place: Place) -> None:
    process = {"API_TOKEN": "secret", "REGION": "north"}
    noted = used(place, variables=["API_TOKEN", "REGION"], process=process)
    assert len(noted["the variable API_TOKEN"]) == 4
    assert len(noted["the variable REGION"]) == 16


def test_variables_of_the_tasks_are_no_inputs_even_if_they_were_read(place: Place) -> None:
    names = ["HULEEDU_DB_PASSWORD", "HULEEDU_JOBS", "PGPASSWORD"]
    before = used(place, variables=names, all_variables=True)
    assert place.changed(before, process=dict.fromkeys(names, "another")) == ""


def test_other_env_files_of_the_root_are_inputs(place: Place) -> None:
    before = place.inputs()
    place.write(".env.local", "TENANT=north")
    assert place.changed(before) == "the settings"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: p.write("services/orders_service/rows.csv", "PORT = 2"), id="edit"),
        pytest.param(lambda p: p.write("services/orders_service/deep/new", ""), id="a new file"),
        pytest.param(lambda p: p.write("services/orders_service/.env", "A=b"), id="hidden file"),
        pytest.param(
            lambda p: (p.root / "services/orders_service/rows.csv").rename(
                p.root / "services/orders_service/other.csv"
            ),
            id="another name",
        ),
        pytest.param(
            lambda p: (p.root / "services/orders_service/rows.csv").unlink(), id="a file less"
        ),
    ],
)
def test_the_files_of_a_service_are_inputs(place: Place, change: Callable[[Place], object]) -> None:
    before = place.inputs()
    change(place)
    assert place.changed(before) == "its files"


@pytest.mark.parametrize(
    "path",
    [
        "services/other_service/config.py",
        "services/orders_service/app.py",
        "services/orders_service/__pycache__/config.pyc",
        "services/orders_service/node_modules/a.js",
        "services/orders_service/.git/index",
        "services/orders_service/htmlcov/index.html",
        "services/orders_service/conftest.py",
        "services/orders_service/deep/test_orders.py",
        "services/orders_service/tests/data/order.json",
        "README.md",
    ],
)
def test_files_elsewhere_of_tools_and_of_tests_are_no_inputs(place: Place, path: str) -> None:
    before = place.inputs()
    place.write(path, "new")
    assert place.changed(before) == ""


def test_a_virtual_environment_in_a_service_is_no_input(place: Place) -> None:
    before = place.inputs()
    place.write("services/orders_service/env/pyvenv.cfg", "")
    place.write("services/orders_service/env/lib/library.py", "")
    assert place.changed(before) == ""


def test_a_service_whose_directory_is_a_virtual_environment_keeps_its_own_files(
    place: Place,
) -> None:
    place.write("services/orders_service/pyvenv.cfg", "")
    before = place.inputs()
    place.write("services/orders_service/rows.csv", "PORT = 3")
    assert place.changed(before) == "its files"


@pytest.mark.parametrize("path", ["data/rows.csv", "data"])
def test_inputs_of_the_registry_are_inputs(place: Place, path: str) -> None:
    place.write("data/rows.csv", "1")
    inputs = (place.root / path,)
    before = place.inputs(inputs=inputs)
    assert place.changed(before, inputs=inputs) == ""
    place.write("data/rows.csv", "2")
    assert place.changed(before, inputs=inputs) == "its files"


def test_an_input_of_the_registry_that_is_created_counts_as_changed(place: Place) -> None:
    inputs = (place.root / "data",)
    before = place.inputs(inputs=inputs)
    place.write("data/rows.csv", "2")
    assert place.changed(before, inputs=inputs) == "its files"


def test_a_new_modification_time_changes_only_files_too_large_to_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "LARGE", 20)
    place.write("services/orders_service/small", "few words")
    large = place.write("services/orders_service/large", "many words " * 10)
    before = place.inputs()
    place.write("services/orders_service/small", "few words", changed=LONG_AGO + 1)
    assert place.changed(before) == ""
    os.utime(large, (LONG_AGO + 1, LONG_AGO + 1))
    assert place.changed(before) == "its files"


def test_of_more_files_than_the_limit_only_size_and_time_are_compared(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "MANY", 1)
    before = place.inputs()
    place.write("services/orders_service/rows.csv", "PORT = 1", changed=LONG_AGO + 1)
    assert place.changed(before) == "its files"


def test_a_moved_monorepo_has_the_same_inputs(place: Place, tmp_path: Path) -> None:
    before = place.inputs()
    moved = Place(tmp_path / "moved")
    assert moved.changed(before) == ""


# Inputs that the build reads.


def used(
    place: Place,
    *,
    files: Sequence[Path] = (),
    directories: Sequence[Path] = (),
    statuses: Sequence[Path] = (),
    modules: dict[str, list[str]] | None = None,
    variables: Sequence[str] = (),
    all_variables: bool = False,
    process: dict[str, str] | None = None,
) -> Inputs:
    """Return the inputs of a build that has read something."""
    found = Used(
        files=[str(file) for file in files],
        directories=[str(directory) for directory in directories],
        statuses=[str(path) for path in statuses],
        modules={
            str(place.root / directory): names for directory, names in (modules or {}).items()
        },
        variables=variables,
        all_variables=all_variables,
    )
    inputs, present = place.inputs(process=process), place.present(process=process)
    return fingerprint.with_used(inputs, place.service(), found, present)


def used_by(place: Place, *files: Path, directories: tuple[Path, ...] = ()) -> Inputs:
    return used(place, files=files, directories=directories)


def changed_since(
    place: Place, since: float, *files: Path, directories: tuple[Path, ...] = ()
) -> str:
    found = Used(
        files=[str(file) for file in files], directories=[str(path) for path in directories]
    )
    return fingerprint.changed_since(place.service(), found, place.present(), since)


def test_a_file_that_was_read_is_an_input_in_any_directory(place: Place) -> None:
    module = place.write("libs/shared.py", "A = 1")
    before = used_by(place, module)
    assert place.changed(before) == ""
    place.write("libs/shared.py", "A = 2")
    assert place.changed(before) == "libs/shared.py"
    module.unlink()
    assert place.changed(before) == "libs/shared.py"


def test_a_file_that_was_edited_during_the_build_is_named(place: Place) -> None:
    module = place.write("libs/shared.py", "A = 1")
    assert changed_since(place, time.time() - 10, module) == "libs/shared.py"
    assert changed_since(place, time.time() + 10, module) == ""
    assert changed_since(place, time.time() - 10, place.root / "libs/gone.py") == ""


def test_a_file_renamed_over_another_one_during_the_build_is_an_edit(
    place: Place,
) -> None:
    used, other = place.write("libs/shared.py", "A = 1"), place.write("libs/other.py", "A = 2")
    begin = time.time() - 0.1
    # The rename keeps the modification time.
    other.rename(used)
    assert changed_since(place, begin, used) == "libs/shared.py"


def test_a_new_file_in_a_listed_directory_is_an_edit(place: Place) -> None:
    place.write("data/one.csv", "1")
    directories = (place.root / "data",)
    assert changed_since(place, time.time() + 10, directories=directories) == ""
    begin = time.time() - 0.1
    place.write("data/__pycache__/one.pyc", "")
    place.write("data/two.csv", "")
    assert changed_since(place, begin, directories=directories) in ("data/one.csv", "data/two.csv")


def test_bytecode_of_an_installed_library_is_no_edit(place: Place) -> None:
    module = place.write("site-packages/library/__init__.py", "")
    directories = (place.root / "site-packages", module.parent)
    assert changed_since(place, time.time() - 10, module, directories=directories) == ""


def test_a_changed_file_of_the_service_is_named(place: Place) -> None:
    service, present = place.service(), place.present()
    assert fingerprint.own_change_since(service, present, time.time() + 10) == ""
    named = fingerprint.own_change_since(service, present, time.time() - 10)
    assert named.startswith("services/orders_service/")


def test_a_missing_file_that_was_looked_for_is_an_input(place: Place) -> None:
    before = used_by(place, place.root / "libs/local.py")
    assert place.changed(before) == ""
    place.write("libs/local.py", "A = 1")
    assert place.changed(before) == "libs/local.py"


def test_a_named_pipe_is_an_input_and_is_not_read(place: Place) -> None:
    before = place.inputs()
    os.mkfifo(place.root / "services/orders_service/pipe")
    assert place.changed(before) == "its files"


def test_names_and_values_that_are_not_utf_8_are_accepted(place: Place) -> None:
    before = place.inputs()
    odd = os.fsdecode(os.fsencode(place.root / "services/orders_service") + b"/\xff")
    Path(odd).write_text("REGION")
    now = place.inputs(process={"REGION": os.fsdecode(b"\xff")})
    assert now["its files"] != before["its files"]


def test_the_names_in_a_listed_directory_are_an_input(place: Place) -> None:
    place.write("data/one.csv", "1")
    before = used_by(place, directories=(place.root / "data",))
    place.write("data/one.csv", "2")
    place.write("data/__pycache__/one.pyc", "")
    assert place.changed(before) == ""
    place.write("data/.hidden", "")
    assert place.changed(before) == "the entries of data"


@pytest.mark.parametrize("name", ["two.csv", ".two.csv", "two.log", "two~", "node_modules/two"])
def test_every_name_in_a_listed_directory_counts(place: Place, name: str) -> None:
    place.write("data/one.csv", "1")
    before = used_by(place, directories=(place.root / "data",))
    place.write(f"data/{name}", "")
    assert place.changed(before) == "the entries of data"


def test_ignored_files_in_a_listed_directory_of_the_service_are_an_input(
    place: Place,
) -> None:
    place.write("services/orders_service/data/one.log", "1")
    before = used_by(place, directories=(place.root / "services/orders_service/data",))
    place.write("services/orders_service/data/two.log", "")
    assert place.changed(before) == "the entries of services/orders_service/data"


def test_a_file_of_the_tests_that_the_build_read_is_an_input(place: Place) -> None:
    data = place.write("services/orders_service/tests/order.json", "1")
    before = used_by(place, data)
    data.write_text("2")
    assert place.changed(before) == "services/orders_service/tests/order.json"


@pytest.mark.parametrize("path", ["local.toml", "data", "data/deep/file"])
def test_the_type_of_a_path_whose_status_was_read_is_an_input(place: Place, path: str) -> None:
    before = used(place, statuses=[place.root / path])
    assert place.changed(before) == ""
    written = place.write(path, "1")
    assert place.changed(before) == f"the status of {path}"
    before = used(place, statuses=[place.root / path])
    written.write_text("another content")
    assert place.changed(before) == ""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("shared.py", "the modules in libs"),
        ("shared/__init__.py", "the modules in libs"),
        ("shared.cpython-311-x86_64-linux-gnu.so", "the modules in libs"),
        ("missing/__init__.py", "the modules in libs"),
        ("missing/other.py", ""),
        ("unused.py", ""),
        ("__pycache__/shared.cpython-311.pyc", ""),
    ],
)
def test_a_module_that_would_shadow_an_imported_one_is_an_input(
    place: Place, path: str, expected: str
) -> None:
    place.write("libs/missing/data.csv", "")
    before = used(place, modules={"libs": ["shared", "missing"]})
    place.write(f"libs/{path}", "")
    assert place.changed(before) == expected


# Symbolic links.


def relink(place: Place, path: str, target: str) -> Path:
    link = place.root / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return link


@pytest.fixture
def versions(place: Place) -> Place:
    """Two directories of the same data, and a link to one of them."""
    for version in ("v1", "v2"):
        place.write(f"data/{version}/rows.csv", "1")
    relink(place, "data/now", "v1")
    return place


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        ({"files": ["data/now/rows.csv"]}, "data/now/rows.csv"),
        ({"directories": ["data/now"]}, "the entries of data/now"),
        ({"statuses": ["data/now"]}, "the status of data/now"),
        ({"statuses": ["data/now/rows.csv"]}, "the status of data/now/rows.csv"),
    ],
)
def test_the_target_of_a_link_in_the_path_is_an_input(
    versions: Place, noted: dict[str, list[str]], expected: str
) -> None:
    paths = {kind: [versions.root / path for path in found] for kind, found in noted.items()}
    before = used(versions, **paths)  # type: ignore[arg-type]
    assert versions.changed(before) == ""
    relink(versions, "data/now", "v2")
    assert versions.changed(before) == expected


def test_the_target_of_a_link_to_a_module_directory_is_an_input(versions: Place) -> None:
    before = used(versions, modules={"data/now": ["rows"]})
    relink(versions, "data/now", "v2")
    assert versions.changed(before) == "the modules in data/now"


@pytest.mark.parametrize("name", ["data", "rows.csv"])
def test_the_target_of_a_link_in_the_service_is_an_input(versions: Place, name: str) -> None:
    path = f"services/orders_service/{name}"
    target = "../../data/{}" if name == "data" else "../../data/{}/rows.csv"
    relink(versions, path, target.format("v1"))
    before = versions.inputs()
    assert versions.changed(before) == ""
    relink(versions, path, target.format("v2"))
    assert versions.changed(before) == "its files"


def test_links_do_not_depend_on_the_directory_of_the_monorepo(
    versions: Place, tmp_path: Path
) -> None:
    before = used_by(versions, versions.root / "data/now/rows.csv")
    moved = Place(tmp_path / "moved")
    moved.write("data/v1/rows.csv", "1")
    relink(moved, "data/now", "v1")
    assert moved.changed(before) == ""


def test_a_listed_directory_behind_a_link_is_an_input(place: Place) -> None:
    place.write("migrations/versions/a1.py", "revision = 'a1'")
    link = place.root / "services/orders_service/versions"
    link.symlink_to(place.root / "migrations/versions")
    before = used_by(place, link / "a1.py", directories=(link, place.service().directory))
    assert place.changed(before) == ""
    place.write("migrations/versions/a2.py", "revision = 'a2'")
    assert place.changed(before) == "the entries of services/orders_service/versions"
    place.write("migrations/versions/a1.py", "revision = 'a2'")
    assert place.changed(before) == "services/orders_service/versions/a1.py"


def test_files_of_the_service_are_not_listed_twice(place: Place) -> None:
    env = place.write(".env", "A=b")
    known = place.service().directory / "rows.csv"
    assert used_by(place, env, known) == used_by(place)


def test_a_module_of_the_service_is_an_input_if_it_was_read(place: Place) -> None:
    module = place.write("services/orders_service/models.py", "A = 1")
    before = used_by(place, module)
    place.write("services/orders_service/models.py", "A = 2")
    assert place.changed(before) == "services/orders_service/models.py"


def test_the_versions_of_libraries_are_inputs_and_their_files_are_not(place: Place) -> None:
    library = place.write("site-packages/library/__init__.py", "")
    (place.root / "site-packages/library-1.0.dist-info").mkdir()
    before = used_by(place, library, directories=(library.parent,))
    assert not any("library" in name for name in before)
    place.write("site-packages/library/__init__.py", "edited")
    assert place.changed(before) == ""
    (place.root / "site-packages/library-1.0.dist-info").rename(
        place.root / "site-packages/library-1.1.dist-info"
    )
    assert place.changed(before) == "the packages in site-packages"


@pytest.mark.parametrize(
    "path", ["shared-1.0.dist-info/RECORD", "__editable__.shared.pth", "shared.egg-link"]
)
def test_a_library_with_other_files_or_from_elsewhere_counts_as_changed(
    place: Place, path: str
) -> None:
    place.write(f"site-packages/{path}", "one")
    before = used_by(place, place.write("site-packages/shared.py", ""))
    assert place.changed(before) == ""
    place.write(f"site-packages/{path}", "one", changed=LONG_AGO + 1)
    assert place.changed(before) == ""
    place.write(f"site-packages/{path}", "another")
    assert place.changed(before) == "the packages in site-packages"


def test_our_own_libraries_are_an_input_unless_a_service_has_its_own_interpreter(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another virtual environment has another path; the content of the old one is unchanged."""
    of_its_own = place.inputs(python=("python3",))
    before = place.inputs()
    other = str(place.root / "other/site-packages")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"purelib": other, "platlib": other})
    assert place.changed(before) == "the packages in other/site-packages"
    assert place.changed(of_its_own, python=("python3",)) == ""


def test_a_template_that_lacks_a_current_input_is_not_valid(place: Place) -> None:
    inputs = place.inputs()
    older = {name: digest for name, digest in inputs.items() if name != "the server"}
    assert fingerprint.difference(older, inputs, place.present()) == "the server"


# The fingerprint and the content of the environment tag.


DIGESTS = st.dictionaries(st.text(min_size=1), st.text(min_size=1), min_size=1)


@given(DIGESTS)
def test_the_fingerprint_depends_on_every_input_and_not_on_their_order(
    inputs: dict[str, str],
) -> None:
    key = fingerprint.key(inputs)
    assert key == fingerprint.key(dict(reversed(inputs.items())))
    name = next(iter(inputs))
    assert key != fingerprint.key({**inputs, name: inputs[name] + "x"})
    assert key != fingerprint.key({n: d for n, d in inputs.items() if n != name})
    assert len(key) == 12
    assert key.isalnum()


def test_no_input_contains_a_password_or_a_value(place: Place) -> None:
    secret = "s3cret"
    inputs = place.inputs(
        process={"HULEEDU_DB_PASSWORD": secret},
        file={"TOKEN": secret},
        environment={"KEY": secret},
    )
    assert not any(secret in text for pair in inputs.items() for text in pair)
    assert all(len(digest) == 16 for digest in inputs.values())
