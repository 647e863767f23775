"""Chromium without a window, which opens a page and says what came of it."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

# Without requests of its own, such as for updates.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--enable-logging=stderr"),
)
_TIMEOUT = 300.0
# Elements without an end.
_VOID = frozenset({"meta", "wbr", "br", "img", "input", "link", "hr", "path", "circle"})


@dataclass(frozen=True)
class Opened:
    """A page after a browser opened it.

    Attributes:
        dom: The document as HTML.
        console: The messages on its console.
    """

    dom: str
    console: tuple[str, ...]


class Elements(HTMLParser):
    """The elements of a document, each with the names of those around it and its text.

    Attributes:
        found: For each element its path, its attributes, and its text.
        unclosed: The elements that are not closed.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.unclosed: list[str] = []
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        path = " ".join([*self.unclosed, tag])
        self.found.append((path, {name: value or "" for name, value in attrs}, []))
        if tag not in _VOID:
            self.unclosed.append(tag)
            self._open.append(self.found[-1][2])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((" ".join([*self.unclosed, tag]), dict.fromkeys((), ""), []))

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        assert self.unclosed, f"</{tag}> closes nothing"
        assert self.unclosed[-1] == tag, f"</{tag}> closes <{self.unclosed[-1]}>"
        self.unclosed.pop()
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for texts in self._open:
            texts.append(data)

    def of(self, tag: str, css: str = "") -> list[tuple[dict[str, str], str]]:
        """Return the attributes and the text of each element of a name and a class."""
        return [
            (attributes, " ".join("".join(texts).split()))
            for path, attributes, texts in self.found
            if path.rpartition(" ")[2] == tag
            and (not css or css in attributes.get("class", "").split())
        ]

    @property
    def names(self) -> set[str]:
        """The names of all elements."""
        return {path.rpartition(" ")[2] for path, _, _ in self.found}


def open_page(path: Path) -> Opened:
    """Open a file in Chromium, and return what it made of it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        pytest.skip("there is no chromium on this machine")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [program, *_FLAGS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()],
            capture_output=True,
            timeout=_TIMEOUT,
            check=True,
        )
    said = done.stderr.decode(errors="replace").splitlines()
    return Opened(done.stdout.decode(), tuple(line for line in said if "CONSOLE" in line))
