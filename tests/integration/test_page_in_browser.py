"""The page in a real Chromium: nothing runs, nothing is asked for, and the structure stands."""

import socket
from dataclasses import replace
from pathlib import Path

from tests.support.browser import Elements, open_page
from tests.support.pages import line_graph, plan_report, write_page


def hostile(port: int) -> str:
    """Return a name that does everything that a page must not do."""
    address = f"http://127.0.0.1:{port}/"
    return (
        f"a</script><script src={address}></script><script>document.title = 'owned'</script>"
        f"--></style><img src='{address}' onerror=\"document.title='owned'\">"
        f"\"'><iframe src={address}></iframe><link rel=stylesheet href={address}>"
        f"\u202e\x00\x1b]0;owned\x07 {'n' * 300}"
    )


def test_a_page_with_hostile_names_runs_nothing_and_asks_for_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        text = hostile(listener.getsockname()[1])
        path = tmp_path / "page.html"
        names = [f"{number} {text}" for number in range(2)]
        report = plan_report(names, text=text)
        long = replace(report.outcomes[0], graph=line_graph(100, 98))
        page = write_page(replace(report, outcomes=(long, *report.outcomes[1:])), path)
        opened = open_page(path)
        listener.setblocking(False)
        try:
            asked = listener.accept()
        except BlockingIOError:
            asked = None
    assert asked is None
    assert opened.console == ()
    dom, written = Elements(opened.dom), Elements(page)
    ((_, title),) = dom.of("title")
    assert title.startswith("prod.plan")
    for tag, css in (
        *(("article", "finding"), ("article", "service"), ("li", "card"), ("li", "revision")),
        *(("details", ""), ("svg", ""), ("script", ""), ("style", ""), ("h1", ""), ("ol", "plan")),
    ):
        assert len(dom.of(tag, css)) == len(written.of(tag, css)) > 0, (tag, css)
    assert dom.names.isdisjoint({"img", "iframe", "link"})
    assert len(dom.of("li", "revision")) == 104
    assert [attributes.get("type") for attributes, _ in dom.of("script")] == ["application/json"]
