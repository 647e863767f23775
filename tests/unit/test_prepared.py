"""The copies of prepared monorepos, of which only what was changed is written again."""

import os
import shutil
from pathlib import Path

from tests.support.prepared import restore


def tree(directory: Path) -> dict[str, tuple[int, str]]:
    """Return the mode and the content of everything in a directory."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_mode, content(path))
        for path in directory.rglob("*")
    }


def content(path: Path) -> str:
    if path.is_symlink():
        return str(path.readlink())
    return "" if path.is_dir() else path.read_text()


def test_a_changed_copy_is_as_its_original_again(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    (original / "data/base").mkdir(parents=True)
    for name in ("same", "written", "deleted", "replaced", "closed", "data/moved"):
        (original / name).write_text(name)
    (original / "link").symlink_to("same")
    (original / "data/base").chmod(0o700)
    # As at the first use: nothing is there yet.
    copy.mkdir()
    restore(original, copy)
    assert tree(copy) == tree(original)
    identity = (copy / "same").stat().st_ino

    (copy / "written").write_text("changed")
    (copy / "deleted").unlink()
    (copy / "replaced").unlink()
    (copy / "replaced/by/directory").mkdir(parents=True)
    (copy / "closed").chmod(0)
    (copy / "data/moved").rename(copy / "elsewhere")
    (copy / "link").unlink()
    (copy / "link").symlink_to("written")
    shutil.rmtree(copy / "data/base")
    os.mkfifo(copy / "data/base")
    restore(original, copy)
    assert tree(copy) == tree(original)
    assert (copy / "same").stat().st_ino == identity
