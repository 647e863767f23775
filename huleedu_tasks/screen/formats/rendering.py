"""The function that writes each form."""

from collections.abc import Callable

from huleedu_tasks.screen.formats.contents import Contents
from huleedu_tasks.screen.formats.forms import Form
from huleedu_tasks.screen.formats.github import render_github
from huleedu_tasks.screen.formats.gitlab import render_gitlab
from huleedu_tasks.screen.formats.junit import render_junit
from huleedu_tasks.screen.formats.markdown import render_markdown
from huleedu_tasks.screen.formats.sarif import render_sarif

RENDERED: dict[Form, Callable[[Contents], str]] = {
    Form.MARKDOWN: render_markdown,
    Form.GITHUB: render_github,
    Form.SARIF: render_sarif,
    Form.GITLAB: render_gitlab,
    Form.JUNIT: render_junit,
}
