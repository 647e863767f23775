"""The one seam between Invoke and everything else.

Invoke shows any exception it does not know as a traceback, ends Ctrl-C with 1, and lets `--dry`
pass unseen by a task that does not use `c.run`. Here errors become exit codes, Ctrl-C 130, and
`--dry` a dry run.
"""

import asyncio
import contextlib
import functools
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task, task

from huleedu_tasks.app import App
from huleedu_tasks.errors import ConfigurationError, ExitCode, HuleEduError, Interrupted
from huleedu_tasks.report import Report, Result
from huleedu_tasks.screen.console import Screen

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")

HELP = {
    "service": "Work on this service only; may be repeated.",
    "json": "Print one JSON document on standard output.",
    "dry_run": "Say what would be done, and change nothing.",
    "jobs": "How many services are migrated at once.",
}
RUN_AGAIN = "Run the same command again; it begins from any state."
REPORT_BUG = "This is a mistake in huleedu-tasks: please report it with the lines above."
REPEATABLE = ("service", "confirm", "first", "host")
# How every message names a task.
INVOKE = re.compile(r"`invoke (?=[a-z]+\.[a-z])")
STANDARD_OUTPUT = 1
STANDARD_ERROR = 2


class Command(App):
    """An App that knows the screen of the command it serves."""

    def __init__(self, *, start: Path, dry_run: bool, screen: Screen) -> None:
        super().__init__(start=start, dry_run=dry_run)
        self.screen = screen
        self.exit_code: ExitCode | None = None
        self.interrupted = False

    def require_not_interrupted(self) -> None:
        """End where work came to a result although somebody has interrupted it meanwhile.

        Raises:
            KeyboardInterrupt: If so.
        """
        if self.interrupted or self.exit_code:
            raise KeyboardInterrupt

    def run(self, work: Coroutine[Any, Any, T], *, patient: bool = False) -> T:
        """Run the asynchronous part, once; SIGTERM ends it as Ctrl-C does.

        Args:
            patient: Whether a second Ctrl-C, too, waits until it has ended.
        """

        async def main() -> T:
            loop = asyncio.get_running_loop()
            own = asyncio.current_task()

            def terminate() -> None:
                self.exit_code = ExitCode.TERMINATED
                if own:
                    own.cancel()

            loop.add_signal_handler(signal.SIGTERM, terminate)
            if patient and own:
                # Else the second one raises wherever the loop is.
                loop.add_signal_handler(signal.SIGINT, own.cancel)
            result = await work
            self.interrupted = bool(own and own.cancelling())
            return result

        try:
            with _nothing_on_standard_output():
                return asyncio.run(main())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            # The loop has put the default back, which ends a question without a word.
            self.end_on_sigterm()

    def end_on_sigterm(self) -> None:
        """Have SIGTERM end what is not asynchronous as Ctrl-C does."""

        def terminate(*_: object) -> None:
            self.exit_code = ExitCode.TERMINATED
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, terminate)


@contextlib.contextmanager
def _nothing_on_standard_output() -> Iterator[None]:
    """Send to standard error what a seed's own child processes print."""
    try:
        kept = os.dup(STANDARD_OUTPUT)
    except OSError:
        # Closed: then it stays so.
        yield
        return
    os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_OUTPUT)
        os.close(kept)


def drop(stream: int) -> None:
    """Have what is still printed go nowhere: else Python tries again at its end, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def _tell(tell: Callable[Q, None], *args: Q.args, **kwargs: Q.kwargs) -> None:
    """Tell something to whoever still reads; with `| head` nobody may, and that is no failure.

    What a reader of standard error waits for is told all the same: it comes after the rest.
    """
    for stream in (STANDARD_OUTPUT, STANDARD_ERROR):
        try:
            tell(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            drop(stream)
        else:
            return


Body = Callable[Concatenate[Command, P], Result | None]


def command(**help_texts: str) -> Callable[[Body[P]], Task[Any]]:
    """Make a task of a function that takes a `Command` and returns a result.

    Args:
        help_texts: What `--help` says of arguments that other commands do not have.
    """

    def decorate(body: Body[P]) -> Task[Any]:
        parameters = list(inspect.signature(body).parameters)[1:]
        name = f"{body.__module__.rpartition('.')[2]}.{body.__name__.rstrip('_')}"

        @functools.wraps(body)
        def run(context: Context, *args: P.args, **kwargs: P.kwargs) -> None:
            _run(name, context, body, *args, **kwargs)

        texts = {**HELP, **help_texts}
        return task(  # type: ignore[return-value]  # Invoke says Callable and returns a Task
            run,
            name=body.__name__.rstrip("_"),
            auto_shortflags=False,
            positional=[],
            iterable=[name for name in REPEATABLE if name in parameters],
            help={name: texts[name] for name in parameters if name in texts},
        )

    return decorate


def whole_number(flag: str, text: str, *, at_least: int) -> int:
    """Return the number a flag was given; Invoke's own conversion ends in a traceback.

    Raises:
        ConfigurationError: If it is none, or too small.
    """
    if text.isdecimal() and int(text) >= at_least:
        return int(text)
    raise ConfigurationError(
        f"{flag} takes a whole number of at least {at_least}, not {text!r}.",
        hint=f"Leave {flag} out for the usual.",
    )


def _require_values(arguments: Sequence[str]) -> None:
    """Refuse a repeatable flag without its value, which Invoke takes for one not given.

    `db.reset --service $NAME` with an empty NAME would reset everything.
    """
    flags = [f"--{name}" for name in REPEATABLE]
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        if argument in flags and following.startswith("--"):
            raise ConfigurationError(
                f"{argument} needs a value and has none; nothing was done.",
                hint=f"Write `{argument} NAME`, or leave it out.",
            )


def typed_before(name: str, argv: Sequence[str]) -> str:
    """Return what a person has typed before the name of a task.

    That is the program, which may be another than `invoke`, and where somebody has added our
    tasks below a name of their own, that name.
    """
    program, *words = argv
    path = Path(program)
    # `python -m invoke` tells of invoke/__main__.py.
    called = path.parent.name if path.name == "__main__.py" else path.name
    typed = next((word for word in words if f".{word}".endswith(f".{name}")), name)
    return f"{called} {typed.removesuffix(name)}"


def _run(name: str, context: Context, body: Body[P], *args: P.args, **kwargs: P.kwargs) -> None:
    dry_run = bool(context.config.run.dry or kwargs.get("dry_run"))
    screen = Screen(as_json=bool(kwargs.get("json")))
    app = Command(start=Path.cwd(), dry_run=dry_run, screen=screen)
    typed = f"`{typed_before(name, sys.argv)}"
    screen.redact = lambda text: INVOKE.sub(lambda _: typed, app.redact(text))
    usual = signal.getsignal(signal.SIGTERM)
    app.end_on_sigterm()
    try:
        _require_values(sys.argv)
        # Standard output is for the result; a seed that prints must not get in between.
        with contextlib.redirect_stdout(sys.stderr):
            result = body(app, *args, **kwargs)
        code = ExitCode.DONE if result is None else result.exit_code
        if app.exit_code and isinstance(result, Report):
            result = result.terminated()
        if result is not None:
            _tell(screen.show, result)
    except HuleEduError as error:
        code = error.exit_code
        _tell(screen.error, name, error)
    except KeyboardInterrupt:
        code = app.exit_code or ExitCode.INTERRUPTED
        interrupted = Interrupted("interrupted.", hint=RUN_AGAIN)
        _tell(screen.error, name, interrupted, exit_code=code)
    except Exception as error:
        code = ExitCode.FAILED
        _tell(screen.say, traceback.format_exc())
        bug = HuleEduError(f"{type(error).__name__}: {error}", hint=REPORT_BUG)
        _tell(screen.error, name, bug)
    finally:
        signal.signal(signal.SIGTERM, usual)
    code = app.exit_code or code
    # Exit(0) would end the session, and skip the tasks named after this one.
    if code is not ExitCode.DONE:
        raise Exit(code=int(code))
