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
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import Task, task

from huleedu_tasks.app import App
from huleedu_tasks.config.registry import Registry
from huleedu_tasks.errors import ConfigurationError, ExitCode, HuleEduError, Interrupted
from huleedu_tasks.postgres.failures import explained
from huleedu_tasks.report import Report, Result
from huleedu_tasks.screen.console import Screen
from huleedu_tasks.screen.streams import (
    STANDARD_ERROR,
    STANDARD_OUTPUT,
    Streams,
    lasting_streams,
)

if TYPE_CHECKING:
    from huleedu_tasks.prod.stop_request import Stop

P = ParamSpec("P")
T = TypeVar("T")

HELP = {
    "service": "Work on these services only: NAME or NAME,NAME; may be repeated.",
    "json": "Print one JSON document on standard output.",
    "dry_run": "Say what would be done, and change nothing.",
    "jobs": "How many services are migrated at once.",
}
RUN_AGAIN = "Run the same command again; it begins from any state."
REPORT_BUG = "This is a mistake in huleedu-tasks: please report it with the lines above."
REPEATABLE = ("service", "confirm", "first", "host")
# What a result that could not be written is called.
OUTPUT_LOST_CODE = "output-lost"
# How every message names a task.
INVOKE = re.compile(r"`invoke (?=[a-z]+\.[a-z])")
# How a process ends that is told to by one of these signals.
ENDED_BY = {signal.SIGTERM: ExitCode.TERMINATED, signal.SIGHUP: ExitCode.HUNG_UP}


class Command(App):
    """An App that knows the screen of the command it serves."""

    def __init__(self, *, start: Path, dry_run: bool, screen: Screen) -> None:
        super().__init__(start=start, dry_run=dry_run)
        self.screen = screen
        self.exit_code: ExitCode | None = None
        self.interrupted = False

    @functools.cached_property
    def stop(self) -> "Stop":
        """What has work stop at a good place."""
        from huleedu_tasks.prod.stop_request import Stop

        return Stop()

    def discovered_registry(self) -> Registry:
        """Say that there is no registry, and which services were discovered instead."""
        began = time.monotonic()
        registry = super().discovered_registry()
        # What is shown is masked by what the registry says.
        self.__dict__["registry"] = registry
        names = ", ".join(f"{each.name} (port {each.port})" for each in registry.services)
        seconds = time.monotonic() - began
        self.screen.say(
            f"No {registry.path.name} here; discovered in {seconds:.1f} s: {names}. "
            "`invoke services.discover` writes it, and no command has to look again."
        )
        return registry

    def require_not_interrupted(self) -> None:
        """End where work came to a result although somebody has interrupted it meanwhile.

        Raises:
            KeyboardInterrupt: If so.
        """
        if self.interrupted or self.exit_code:
            raise KeyboardInterrupt

    def run(self, work: Coroutine[Any, Any, T], *, patient: bool = False) -> T:
        """Run the asynchronous part, once; SIGTERM and SIGHUP end it as Ctrl-C does.

        Where work can stop at a good place, SIGHUP has it stop there.

        Args:
            patient: Whether a second Ctrl-C, too, waits until it has ended.
        """

        async def main() -> T:
            loop = asyncio.get_running_loop()
            own = asyncio.current_task()

            def end(number: signal.Signals) -> None:
                if number is signal.SIGHUP and self.stop.is_listened_to:
                    self.stop.request()
                    self.exit_code = self.exit_code or ENDED_BY[number]
                    return
                self.exit_code = ENDED_BY[number]
                if own:
                    own.cancel()

            for number in _heard_signals():
                loop.add_signal_handler(number, end, number)
            if patient and own:
                # Else the second one raises wherever the loop is.
                loop.add_signal_handler(signal.SIGINT, own.cancel)
            with explained():
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
            self.end_on_signals()

    def end_on_signals(self) -> None:
        """Have SIGTERM and SIGHUP end what is not asynchronous as Ctrl-C does."""

        def end(number: int, _: object) -> None:
            self.exit_code = ENDED_BY[signal.Signals(number)]
            raise KeyboardInterrupt

        for number in _heard_signals():
            signal.signal(number, end)


def _heard_signals() -> list[signal.Signals]:
    """Return the signals that end a command; `nohup` has SIGHUP ignored, and it stays so."""
    return [number for number in ENDED_BY if signal.getsignal(number) is not signal.SIG_IGN]


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
            if isinstance(names := kwargs.get("service"), list):
                kwargs["service"] = _separated(names)
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


def _separated(names: Sequence[str]) -> list[str]:
    """Return the names of `--service a,b`; an empty name is kept, and refused later."""
    return [part.strip() for name in names for part in name.split(",")]


def whole_number(flag: str, text: str, *, at_least: int) -> int:
    """Return the number a flag was given; Invoke's own conversion ends in a traceback.

    Raises:
        ConfigurationError: If it is none, or too small.
    """
    if text.isdecimal() and int(text) >= at_least:
        return int(text)
    raise ConfigurationError(
        f"{flag} takes a whole number of at least {at_least}, not {text!r}.",
        code="argument-invalid",
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
                code="argument-invalid",
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
    screen.redact = lambda text: INVOKE.sub(lambda _: typed, app.own_words(app.redact(text)))
    usual = {number: signal.getsignal(number) for number in _heard_signals()}
    with lasting_streams() as streams:
        app.end_on_signals()
        try:
            code = _done(name, app, body, *args, **kwargs)
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)
        sys.stdout.flush()
        code = _with_lost_output(
            code, name, streams, screen, changes="dry_run" in inspect.signature(body).parameters
        )
    # Exit(0) would end the session, and skip the tasks named after this one.
    if code is not ExitCode.DONE:
        raise Exit(code=int(code))


def _done(name: str, app: Command, body: Body[P], *args: P.args, **kwargs: P.kwargs) -> ExitCode:
    """Do what was typed, show what comes of it, and return what the process ends with."""
    screen = app.screen
    try:
        _require_values(sys.argv)
        # Standard output is for the result; a seed that prints must not get in between.
        with contextlib.redirect_stdout(sys.stderr):
            result = body(app, *args, **kwargs)
        if app.exit_code and isinstance(result, Report):
            result = result.ended_by(app.exit_code)
        if result is not None:
            screen.show(result)
        code = ExitCode.DONE if result is None else result.exit_code
        # What was done to its end before a hang-up is done.
        return code if app.stop.is_requested else app.exit_code or code
    except HuleEduError as error:
        screen.error(name, error)
        return app.exit_code or error.exit_code
    except KeyboardInterrupt:
        code = app.exit_code or ExitCode.INTERRUPTED
        screen.error(
            name, Interrupted("interrupted.", code="interrupted", hint=RUN_AGAIN), exit_code=code
        )
        return code
    except Exception as error:
        screen.say(traceback.format_exc())
        bug = HuleEduError(
            f"{type(error).__name__}: {error}", code="internal-error", hint=REPORT_BUG
        )
        screen.error(name, bug)
        return app.exit_code or ExitCode.FAILED


def _with_lost_output(
    code: ExitCode, name: str, streams: Streams, screen: Screen, *, changes: bool
) -> ExitCode:
    """Say that the result could not be written; only where it is all there is, that is a failure.

    Args:
        changes: Whether the command changes something, which is done whoever reads of it.
    """
    if streams.lost is None:
        return code
    screen.say(
        f"{name}: The result was not written to standard output: {streams.lost.strerror}. "
        f"[{OUTPUT_LOST_CODE}]"
    )
    screen.say("What to do: Make room there, or send the output elsewhere.")
    return code if changes or code is not ExitCode.DONE else ExitCode.FAILED
