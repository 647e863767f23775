"""The user interface of `services.discover`: its prompts, and what it writes."""

from pathlib import Path

from huleedu_tasks.cli.command_run import Command
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.discovery import discover
from huleedu_tasks.discovery.proposals import Decisions
from huleedu_tasks.report import Discovery, Result
from huleedu_tasks.screen import prompts

LATER, LEFT_OUT = "later", "left out"
OTHER_ANSWERS = (
    ("Later: write a marker into the file instead.", LATER),
    ("Leave this service out.", LEFT_OUT),
)


def run_discovery(app: Command, *, overwrite: bool, may_ask: bool) -> Result:
    """Discover the services, ask the open questions, and write the registry.

    Args:
        overwrite: Whether an existing registry that differs is replaced without a prompt.
        may_ask: Whether a user at a terminal may be asked.
    """
    path = app.registry_place
    if not path.is_file() and not Settings.registry_path():
        discover.require_repository(app.repository)
    found = app.run(discover.look(app.repository, path, Settings.read(path.parent)))
    app.require_not_interrupted()
    has_person = may_ask and prompts.has_person() and not app.dry_run
    result = found.result(_ask_questions(found) if has_person else Decisions())
    if result.closing:
        return result
    if app.dry_run:
        return discover.without_writing(result, "dry run: nothing was written.", refused=False)
    if overwrite or found.existing is None:
        return discover.write_registry(result, path)
    if has_person:
        return _agreed(app, result, path)
    return discover.without_writing(
        result, discover.NOT_OVERWRITTEN.format(path=path), refused=True
    )


def _ask_questions(found: discover.Found) -> Decisions:
    """Ask the user the open questions; one answer may settle several of them."""
    decisions = Decisions()
    asked: set[tuple[Path, str]] = set()
    while True:
        questions = [
            (entry, question, (entry.proposal.key, question.field))
            for entry, question in found.questions(decisions)
            if question.choices
        ]
        unasked = [question for question in questions if question[2] not in asked]
        if not unasked:
            return decisions
        entry, question, key = unasked[0]
        asked.add(key)
        answer = prompts.choose(
            f"{entry.name}: which {question.field}?",
            [*((choice.label, choice.value) for choice in question.choices), *OTHER_ANSWERS],
            otherwise="Without a terminal, each open question becomes a marker in the file.",
        )
        if answer == LEFT_OUT:
            decisions = decisions.leaving_out(key[0])
        elif answer != LATER:
            decisions = decisions.with_choice(*key, answer)


def _agreed(app: Command, result: Discovery, path: Path) -> Result:
    """Show the difference, and overwrite the registry if the user agrees."""
    app.screen.discovered(result)
    brief = discover.brief(result)
    if prompts.agree(f"Overwrite {path}?"):
        return discover.write_registry(brief, path)
    return discover.without_writing(brief, discover.NOT_OVERWRITTEN.format(path=path), refused=True)
