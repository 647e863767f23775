"""JUnit XML, which every CI server shows as tests."""

import re
from xml.etree import ElementTree

from huleedu_tasks.report import Level
from huleedu_tasks.screen.formats.contents import Contents, Item

_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
# XML has no way to write these; control characters are escaped already.
_NOT_XML = re.compile("[\ufffe\uffff]")


def render_junit(contents: Contents) -> str:
    """Return a suite for each service, with a failed test for each finding that is an error.

    A warning is a passed test with its text as output. A service without findings has one passed
    test.
    """
    root = ElementTree.Element("testsuites", name=contents.command)
    suites = [row[0] for row in contents.rows]
    if any(not item.services for item in contents.items):
        suites.append("")
    for service in suites:
        items = [i for i in contents.items if service in i.services or not (service or i.services)]
        _add_suite(root, contents.command, service, items)
    _count(root)
    root.set("time", f"{contents.seconds:.3f}")
    ElementTree.indent(root)
    return f"{_DECLARATION}\n{ElementTree.tostring(root, encoding='unicode')}\n"


def _add_suite(root: ElementTree.Element, command: str, service: str, items: list[Item]) -> None:
    name = _xml(service or command)
    suite = ElementTree.SubElement(root, "testsuite", name=name)
    if not items:
        ElementTree.SubElement(suite, "testcase", classname=name, name=command)
    for item in items:
        title = _xml(f"{item.code}: {item.cause}")
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=title)
        if item.path:
            case.set("file", _xml(item.path))
        if item.line:
            case.set("line", str(item.line))
        text = _xml("\n".join(filter(None, (item.cause, item.statement, item.remedy))))
        if item.level is Level.ERROR:
            message, kind = _xml(item.cause), _xml(item.code)
            ElementTree.SubElement(case, "failure", message=message, type=kind).text = text
        else:
            ElementTree.SubElement(case, "system-out").text = text
    _count(suite)


def _count(element: ElementTree.Element) -> None:
    element.set("tests", str(len(element.findall(".//testcase"))))
    element.set("failures", str(len(element.findall(".//failure"))))


def _xml(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
