"""JUnit XML, which every CI server shows as tests."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from huleedu_tasks.report import Level
from huleedu_tasks.screen.formats.contents import Contents
from huleedu_tasks.screen.formats.items import Item

_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
# XML has no way to write these; control characters are escaped already.
_NOT_XML = re.compile("[\ufffe\uffff]")


def render_junit(contents: Contents) -> str:
    """Return a suite for each service, with a failed test for each finding that is an error.

    A warning is a passed test with its text as output. A tested revision is one test, with all its
    findings. A service without findings has one passed test.
    """
    root = ElementTree.Element("testsuites", name=contents.command)
    suites = [row[0] for row in contents.rows]
    if any(not item.services for item in contents.items):
        suites.append("")
    for service in suites:
        _add_suite(root, contents, service)
    _count(root)
    root.set("time", f"{contents.seconds:.3f}")
    ElementTree.indent(root)
    return f"{_DECLARATION}\n{ElementTree.tostring(root, encoding='unicode')}\n"


def _add_suite(root: ElementTree.Element, contents: Contents, service: str) -> None:
    name = _xml(service or contents.command)
    suite = ElementTree.SubElement(root, "testsuite", name=name)
    items = [i for i in contents.items if service in i.services or not (service or i.services)]
    cases = [case for case in contents.cases if case.service == service]
    for case in cases:
        _add_case(suite, name, case.name, [item for item in items if item.path == case.path])
        suite[-1].set("file", _xml(case.path))
    paths = {case.path for case in cases}
    for item in (item for item in items if item.path not in paths):
        _add_case(suite, name, f"{item.code}: {item.cause}", [item])
    if not len(suite):
        _add_case(suite, name, contents.command, [])
    _count(suite)


def _add_case(suite: ElementTree.Element, of: str, name: str, items: Sequence[Item]) -> None:
    """Add a test, which fails if one of its findings is an error; it may have one failure only."""
    case = ElementTree.SubElement(suite, "testcase", classname=of, name=_xml(name))
    if not items:
        return
    if items[0].path:
        case.set("file", _xml(items[0].path))
    if items[0].line:
        case.set("line", str(items[0].line))
    text = _xml("\n\n".join(map(_text, items)))
    # The most severe item is the first one.
    if items[0].level is Level.ERROR:
        message, kind = _xml(items[0].cause), _xml(items[0].code)
        ElementTree.SubElement(case, "failure", message=message, type=kind).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _text(item: Item) -> str:
    return "\n".join(filter(None, (item.cause, item.statement, item.remedy)))


def _count(element: ElementTree.Element) -> None:
    element.set("tests", str(len(element.findall(".//testcase"))))
    element.set("failures", str(len(element.findall(".//failure"))))


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
