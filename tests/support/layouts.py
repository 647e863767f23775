"""Services' migrations laid out in every way Alembic loads, and what Alembic makes of each."""

import json
import random
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PLAIN_INI = "[alembic]\nscript_location = alembic\n"
VERSIONS = "alembic/versions"
# Loads each layout in a separate process, so that no modules stay loaded.
_LOADER = """
import json, os, sys, warnings
from alembic.config import Config
from alembic.script import ScriptDirectory

def load(directory):
    os.chdir(directory)
    try:
        toml = "pyproject.toml" if os.path.exists("pyproject.toml") else None
        names = {"toml_file": toml} if toml else {}
        directory = ScriptDirectory.from_config(Config("alembic.ini", **names))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            scripts = list(directory.walk_revisions())
        if any("more than once" in str(warning.message) for warning in found):
            return None
    except BaseException:
        return None
    def ids(value):
        return sorted([value] if isinstance(value, str) else value or ())
    return {s.revision: [ids(s.down_revision), os.path.realpath(s.path)] for s in scripts}

for directory in json.load(sys.stdin):
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, json.dumps(load(directory)).encode())
        os._exit(0)
    os.close(writing)
    print(open(reading).read())
    os.waitpid(child, 0)
"""
Told = dict[str, tuple[list[str], str]]


@dataclass(frozen=True)
class Layout:
    """The files of a service's migrations.

    Attributes:
        files: By their paths in the service's directory.
        links: Symbolic links, with what each names.
        compiled: Those of the files that are there as bytecode only.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    ini: str = PLAIN_INI
    links: Mapping[str, str] = field(default_factory=dict)
    compiled: tuple[str, ...] = ()

    def write(self, directory: Path) -> Path:
        """Write it to a directory, and return that."""
        (directory / "alembic").mkdir(parents=True, exist_ok=True)
        for name, text in {"alembic.ini": self.ini, **self.files}.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for name, target in self.links.items():
            (directory / name).symlink_to(target)
        for name in self.compiled:
            compile_alone(directory / name)
        return directory


def compile_alone(path: Path) -> None:
    """Replace a source by its bytecode beside it."""
    import py_compile

    py_compile.compile(str(path), cfile=f"{path}c", doraise=True)
    path.unlink()


def alembic_says(directories: list[Path]) -> list[Told | None]:
    """Return what Alembic's own script directory contains in each directory; None if it fails.

    For each revision there are those before it, and its file.
    """
    done = subprocess.run(
        [sys.executable, "-c", _LOADER],
        input=json.dumps([str(directory) for directory in directories]),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def revision(name: str, parent: object = None, *more: str) -> str:
    """Return the content of a revision file as Alembic writes it."""
    lines = [
        f'"""Add {name}.',
        "",
        f"Revision ID: {name}",
        '"""',
        "import sqlalchemy as sa",
        "from alembic import op",
        "",
        f"revision: str = {name!r}",
        f"down_revision = {parent!r}",
        "branch_labels = None",
        "depends_on = None",
        *more,
        "",
        "def upgrade() -> None:",
        "    pass",
    ]
    return "\n".join(lines) + "\n"


A, B = revision("a1"), revision("b2", "a1")
PLAIN = {f"{VERSIONS}/a1.py": A}


def _with(text: str, name: str = "b2.py", **more: str) -> Layout:
    return Layout({**PLAIN, f"{VERSIONS}/{name}": textwrap.dedent(text), **more})


LAYOUTS = {
    "as Alembic writes it": Layout({**PLAIN, f"{VERSIONS}/b2.py": B}),
    "nothing yet": Layout(),
    "a directory of versions that is empty": Layout({f"{VERSIONS}/.keep": ""}),
    "ids in a tuple": _with('revision, down_revision = "b2", "a1"\n'),
    "ids in a list": _with('[revision, down_revision] = ["b2", "a1"]\n'),
    "a computed id": _with('revision = "b" + str(2)\ndown_revision = "a1"\n'),
    "an id of another module": _with(
        "import sys, os\nsys.path.insert(0, os.path.dirname(__file__))\n"
        'from ids import B as revision\ndown_revision = "a1"\n',
        **{f"{VERSIONS}/sub/ids.py": ""},
    ),
    "an id that is imported": Layout(
        {
            **PLAIN,
            f"{VERSIONS}/b2.py": 'from ids import NEXT as revision\ndown_revision = "a1"\n',
            "ids.py": 'NEXT = "b2"\n',
        },
        ini=f"{PLAIN_INI}prepend_sys_path = .\n",
    ),
    "ids under a condition": _with(
        'if True:\n    revision = "b2"\nelse:\n    revision = "x"\ndown_revision = "a1"\n'
    ),
    "ids in a try": _with('try:\n    revision = "b2"\nfinally:\n    down_revision = "a1"\n'),
    "an id that a loop leaves": _with(
        'down_revision = "a1"\nfor revision in ("x", "b2"):\n    pass\n'
    ),
    "an id that is assigned again": _with(
        'revision = "x"\ndown_revision = "a1"\nrevision = "b2"\n'
    ),
    "an id by globals()": _with('globals()["revision"] = "b2"\ndown_revision = "a1"\n'),
    "an id in the name of the file only": _with('down_revision = "a1"\n', name="b2c3.py"),
    "a file without an id": _with("HELPER = 1\n", name="helpers.py"),
    "a file that cannot be imported": _with(
        'import no_such_module\nrevision = "b2"\ndown_revision = "a1"\n'
    ),
    "a file that is not Python": _with("revision = \n"),
    "a byte order mark": _with('\ufeffrevision = "b2"\ndown_revision = "a1"\n'),
    "another coding": _with(
        '# -*- coding: utf-8 -*-\nrevision = "b2"  # å\ndown_revision = "a1"\n'
    ),
    "names that Alembic passes over": Layout(
        {
            **PLAIN,
            f"{VERSIONS}/__init__.py": "",
            f"{VERSIONS}/__init__b.py": B,
            f"{VERSIONS}/.#b2.py": B,
            f"{VERSIONS}/b2.py~": B,
            f"{VERSIONS}/b2.pyi": B,
            f"{VERSIONS}/b2.txt": B,
            f"{VERSIONS}/b2.PY": B,
        }
    ),
    "odd names": Layout(
        {
            **PLAIN,
            f"{VERSIONS}/2024-01-01 b2.py": B,
            f"{VERSIONS}/.c3.py": revision("c3", "b2"),
            f"{VERSIONS}/d4.e5.py": revision("d4", "c3"),
            f"{VERSIONS}/_e5.py": revision("e5", "d4"),
        }
    ),
    "the lock of an editor": Layout(PLAIN, links={f"{VERSIONS}/.#a1.py": "me@laptop.4711:1700"}),
    "a link to a revision": Layout(
        {**PLAIN, "shared/b2.py": B}, links={f"{VERSIONS}/b2.py": "../../shared/b2.py"}
    ),
    "a link to a revision of another name": Layout(
        {**PLAIN, "shared/b2.txt": B}, links={f"{VERSIONS}/b2.py": "../../shared/b2.txt"}
    ),
    "a link to a revision that is there": Layout(PLAIN, links={f"{VERSIONS}/z.py": "a1.py"}),
    "a link that leads nowhere": Layout(PLAIN, links={f"{VERSIONS}/b2.py": "gone.py"}),
    "a directory that is a link": Layout(
        {"shared/versions/a1.py": A}, links={VERSIONS: "../shared/versions"}
    ),
    "a directory with the name of a file": Layout({**PLAIN, f"{VERSIONS}/helpers.py/x.py": B}),
    "directories below, not asked for": Layout({**PLAIN, f"{VERSIONS}/below/b2.py": B}),
    "directories below": Layout(
        {**PLAIN, f"{VERSIONS}/below/b2.py": B, f"{VERSIONS}/below/__pycache__/x.py": "("},
        ini=f"{PLAIN_INI}recursive_version_locations = true\n",
    ),
    "directories below, in another spelling": Layout(
        {**PLAIN, f"{VERSIONS}/below/b2.py": B},
        ini=f"{PLAIN_INI}recursive_version_locations = True\n",
    ),
    "several locations": Layout(
        {"one/a1.py": A, "two/b2.py": B},
        ini=f"{PLAIN_INI}version_locations = one two\n",
    ),
    "several locations with a separator": Layout(
        {"one/a1.py": A, "t w o/b2.py": B},
        ini=f"{PLAIN_INI}path_separator = os\nversion_locations = %(here)s/one:%(here)s/t w o\n",
    ),
    "a location that is there twice": Layout(
        {"one/a1.py": A}, ini=f"{PLAIN_INI}version_locations = one one\n"
    ),
    "a location that is missing": Layout(
        {"one/a1.py": A}, ini=f"{PLAIN_INI}version_locations = one gone\n"
    ),
    "scripts elsewhere": Layout(
        {"db/env.py": "", "db/versions/a1.py": A}, ini="[alembic]\nscript_location = %(here)s/db\n"
    ),
    "scripts of a package": Layout(
        {"src/orders/__init__.py": "", "src/orders/db/versions/a1.py": A},
        ini="[alembic]\nscript_location = orders:db\nprepend_sys_path = src\n",
    ),
    "scripts that are missing": Layout(ini="[alembic]\nscript_location = gone\n"),
    "no script location": Layout(ini="[alembic]\nfile_template = x\n"),
    "a configuration in pyproject": Layout(
        {
            "db/versions/a1.py": A,
            "pyproject.toml": '[tool.alembic]\nscript_location = "%(here)s/db"\n',
        },
        ini="[alembic]\n",
    ),
    "a pyproject without Alembic": Layout(
        {**PLAIN, "pyproject.toml": '[project]\nname = "orders"\n'}
    ),
    "bytecode only": Layout(
        {**PLAIN, f"{VERSIONS}/b2.py": B},
        ini=f"{PLAIN_INI}sourceless = true\n",
        compiled=(f"{VERSIONS}/b2.py",),
    ),
    "bytecode only, not asked for": Layout(
        {**PLAIN, f"{VERSIONS}/b2.py": B}, compiled=(f"{VERSIONS}/b2.py",)
    ),
    "a merge": Layout(
        {
            **PLAIN,
            f"{VERSIONS}/b2.py": B,
            f"{VERSIONS}/c3.py": revision("c3", "a1"),
            f"{VERSIONS}/m.py": revision("m", ("b2", "c3")),
        }
    ),
    "a merge of a list": Layout(
        {
            **PLAIN,
            f"{VERSIONS}/b2.py": B,
            f"{VERSIONS}/c3.py": revision("c3", "a1"),
            f"{VERSIONS}/m.py": revision("m", ["b2", "c3"]),
        }
    ),
    "an id twice": Layout({**PLAIN, f"{VERSIONS}/a1_again.py": A}),
    "a parent that is missing": Layout({f"{VERSIONS}/b2.py": B}),
    "a circle": Layout(
        {f"{VERSIONS}/a1.py": revision("a1", "b2"), f"{VERSIONS}/b2.py": revision("b2", "a1")}
    ),
    "no parent stated": _with('revision = "b2"\n'),
    "an empty parent": Layout({f"{VERSIONS}/b2.py": 'revision = "b2"\ndown_revision = ()\n'}),
    "a parent that is empty text": _with('revision = "b2"\ndown_revision = ""\n'),
    "a number as an id": _with("revision = 2\ndown_revision = 'a1'\n"),
    "dependencies by a label": Layout(
        {
            **PLAIN,
            f"{VERSIONS}/b2.py": 'revision = "b2"\ndown_revision = "a1"\nbranch_labels = ("x",)\n',
            f"{VERSIONS}/c3.py": 'revision = "c3"\ndown_revision = "b2"\ndepends_on = "x"\n',
        }
    ),
    "dependencies by the beginning of an id": Layout(
        {
            f"{VERSIONS}/a.py": revision("abcdef"),
            f"{VERSIONS}/b.py": 'revision = "b2"\ndown_revision = "abcdef"\ndepends_on = "abcd"\n',
        }
    ),
}

# Each way to state an id and what it follows, which Python understands.
_WAYS = (
    "revision = {id!r}\ndown_revision = {parent!r}\n",
    "revision: str = {id!r}\ndown_revision: object = {parent!r}\n",
    "revision, down_revision = {id!r}, {parent!r}\n",
    "revision = 'x'\nrevision = {id!r}\ndown_revision = {parent!r}\n",
    "revision = ''.join([{id!r}])\ndown_revision = {parent!r}\n",
    "if True:\n    revision = {id!r}\ndown_revision = {parent!r}\n",
    "try:\n    revision = {id!r}\nexcept ValueError:\n    pass\ndown_revision = {parent!r}\n",
    "down_revision = {parent!r}\nfor revision in [{id!r}]:\n    pass\n",
    "revision = identifier = {id!r}\ndown_revision = {parent!r}\n",
    "class Ids:\n    revision = 'y'\nrevision = {id!r}\ndown_revision = {parent!r}\n",
    "def revision():\n    pass\nrevision = {id!r}\ndown_revision = {parent!r}\n",
    "def f():\n    revision = 'y'\nrevision = {id!r}\ndown_revision = {parent!r}\n",
    "exec('revision = ' + repr({id!r}))\ndown_revision = {parent!r}\n",
    "revision = {id!r}\ndown_revision = {parent!r}\ndel revision\nrevision = {id!r}\n",
    "revision = {id!r}\nif False:\n    revision = 'z'\ndown_revision = {parent!r}\n",
)
_NAMES = ("{id}.py", "{id}_add.py", "2024-01-01_{id}.py", "_{id}.py", "{id}.v1.py", "A {id}.py")
_BESIDE = {
    "__init__.py": "",
    "__init__x.py": "revision = 'never'\ndown_revision = None\n",
    ".#never.py": "revision = 'never'\ndown_revision = None\n",
    "never.txt": "",
    "below/never.py": "revision = 'never'\ndown_revision = None\n",
    "__pycache__/never.py": "revision = 'never'\n",
}


def random_layout(number: int) -> Layout:
    """Return the layout of a number, the same each time."""
    chosen = random.Random(number)
    files: dict[str, str] = {}
    heads: list[str] = []
    for place in range(chosen.randint(1, 7)):
        name = f"{place:02x}{chosen.randrange(16**4):04x}"
        merges = len(heads) > 1 and chosen.random() < 0.7
        parent: object = tuple(heads) if merges else chosen.choice([*heads]) if heads else None
        heads = [name] if merges or chosen.random() < 0.8 or not heads else [*heads, name]
        text = chosen.choice(_WAYS).format(id=name, parent=parent)
        files[f"{VERSIONS}/{chosen.choice(_NAMES).format(id=name)}"] = text
    for beside in chosen.sample(sorted(_BESIDE), chosen.randint(0, 3)):
        files[f"{VERSIONS}/{beside}"] = _BESIDE[beside]
    return Layout(files)
