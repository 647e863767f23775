"""One run of a command: its screen, its signals and its exit code.

Invoke prints a traceback for any exception that it does not know, exits with 1 on Ctrl-C, and
ignores `--dry` in a task that does not use `c.run`. This module turns errors into exit codes,
Ctrl-C into 130, and `--dry` into a dry run.
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
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from huleedu_tasks.app import App
from huleedu_tasks.cli.command_line import require_values, typed_before
from huleedu_tasks.config.registry import Registry
from huleedu_tasks.errors import INVOKE, ConfigurationError, ExitCode, HuleEduError, Interrupted
from huleedu_tasks.report import Listing, Report, Result
from huleedu_tasks.repository import commit_of, shown
from huleedu_tasks.screen.console import Screen
from huleedu_tasks.screen.formats.forms import Form, Outputs, parse_outputs
from huleedu_tasks.screen.streams import (
    STANDARD_ERROR,
    STANDARD_OUTPUT,
    Streams,
    lasting_streams,
)

if TYPE_CHECKING:
    from huleedu_tasks.prod.stop_request import Stop
    from huleedu_tasks.schema.replay import Replays

P = ParamSpec("P")
T = TypeVar("T")

RUN_AGAIN = "Run the same command again; it begins from any state."
REPORT_BUG = "This is a bug in huleedu-tasks: report it with the lines above."
# The command whose `--out FILE` is a plan.
PLANNING = "prod.plan"
# The command whose result is no report.
LISTING = "prod.history"
# The error code for a result that could not be written.
OUTPUT_LOST_CODE = "output-lost"
# The exit code for each signal that ends the process.
ENDED_BY = {signal.SIGTERM: ExitCode.TERMINATED, signal.SIGHUP: ExitCode.HUNG_UP}


class Command(App):
    """An `App` with the screen of the command that it serves."""

    def __init__(self, *, start: Path, dry_run: bool, screen: Screen) -> None:
        super().__init__(start=start, dry_run=dry_run)
        self.screen = screen
        self.exit_code: ExitCode | None = None
        self.interrupted = False

    @functools.cached_property
    def stop(self) -> "Stop":
        """The request to stop the work at a safe point."""
        from huleedu_tasks.prod.stop_request import Stop

        return Stop()

    @functools.cached_property
    def replays(self) -> "Replays":
        """The throwaway databases of a command for staging and production."""
        from huleedu_tasks.schema.replay import Replays

        return Replays(
            settings=self.unchecked_settings,
            registry=self.registry,
            state=self.state,
            instance=self.instance,
            notify=self.screen.say,
        )

    def discovered_registry(self) -> Registry:
        """Discover the services, and print a note that no registry was found."""
        began = time.monotonic()
        registry = super().discovered_registry()
        # Masking the note below reads the registry.
        self.__dict__["stated_registry"] = registry
        names = ", ".join(f"{s.name} (port {s.port})" for s in registry.services)
        seconds = time.monotonic() - began
        self.screen.say(
            f"{registry.path.name} was not found; discovered in {seconds:.1f} s: {names}. "
            "Run `invoke services.discover` to write the file and to skip discovery."
        )
        return registry

    def require_not_interrupted(self) -> None:
        """Stop a command whose work finished although a signal has interrupted it.

        Raises:
            KeyboardInterrupt: If a signal arrived during `run`.
        """
        if self.interrupted or self.exit_code:
            raise KeyboardInterrupt

    def run(self, work: Coroutine[Any, Any, T], *, patient: bool = False) -> T:
        """Run the asynchronous part once; SIGTERM and SIGHUP cancel it like Ctrl-C.

        SIGHUP only requests a stop if the work listens to `stop`.

        Args:
            patient: Whether a second Ctrl-C also waits until the work has ended.

        Raises:
            KeyboardInterrupt: If a signal cancelled the work.
        """
        from huleedu_tasks.postgres.server_errors import converted_errors

        async def main() -> T:
            loop = asyncio.get_running_loop()
            own = asyncio.current_task()

            def end(number: signal.Signals) -> None:
                if number is signal.SIGHUP and self.stop.is_listened_to:
                    self.stop.request()
                    self.exit_code = self.exit_code or ENDED_BY[number]
                    return
                self.exit_code = ENDED_BY[number]
                cancel()

            def cancel() -> None:
                # A second cancellation could interrupt the release of a lock, and lose the report.
                if own and not (patient and own.cancelling()):
                    own.cancel()

            for number in _heard_signals():
                loop.add_signal_handler(number, end, number)
            if patient:
                # By default a second Ctrl-C raises at any line of the event loop.
                loop.add_signal_handler(signal.SIGINT, cancel)
            with converted_errors():
                result = await work
            self.interrupted = bool(own and own.cancelling())
            return result

        try:
            with _nothing_on_standard_output():
                return asyncio.run(main())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            # The event loop restored the default handlers, which end a prompt without a message.
            self.end_on_signals()
            if patient and self.interrupted:
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_on_signals(self) -> None:
        """Make SIGTERM and SIGHUP raise `KeyboardInterrupt` in code that is not asynchronous.

        Once a signal ends the command, further ones do not prevent its report.
        """

        def end(number: int, _: object) -> None:
            if self.exit_code is None:
                self.exit_code = ENDED_BY[signal.Signals(number)]
                raise KeyboardInterrupt

        for number in _heard_signals():
            signal.signal(number, end)


Body = Callable[Concatenate[Command, P], Result | None]


def _heard_signals() -> list[signal.Signals]:
    """Return the signals that end a command: not SIGHUP if `nohup` had it ignored."""
    return [number for number in ENDED_BY if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def _nothing_on_standard_output() -> Iterator[None]:
    """Redirect file descriptor 1 to standard error, for child processes of seeds that print."""
    try:
        kept = os.dup(STANDARD_OUTPUT)
    except OSError:
        # Standard output is closed, and stays closed.
        yield
        return
    os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)
    try:
        yield
    finally:
        os.dup2(kept, STANDARD_OUTPUT)
        os.close(kept)


def run_command(
    name: str, body: Body[P], dry_run: bool, /, *args: P.args, **kwargs: P.kwargs
) -> ExitCode:
    """Run the body of a task, print its result or error, and return the exit code.

    Args:
        name: The full name of the task, for example `db.reset`.
        body: The function of the task.
        dry_run: Whether nothing may be changed.
        args: The task's arguments.
        kwargs: The task's flags.
    """
    screen = Screen(as_json=bool(kwargs.get("json")) or kwargs.get("format") == Form.JSON)
    app = Command(start=Path.cwd(), dry_run=dry_run, screen=screen)
    typed = typed_before(name, sys.argv)

    def as_typed(found: re.Match[str]) -> str:
        return f"`{app.assignments(found['collection'])}{typed}"

    screen.redact = lambda text: INVOKE.sub(as_typed, app.own_words(app.redact(text)))
    usual = {number: signal.getsignal(number) for number in _heard_signals()}
    with lasting_streams() as streams:
        app.end_on_signals()
        try:
            code = _run_and_report(name, app, body, *args, **kwargs)
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)
        sys.stdout.flush()
        return _with_lost_output(
            code, name, streams, screen, changes="dry_run" in inspect.signature(body).parameters
        )


def _run_and_report(
    name: str, app: Command, body: Body[P], /, *args: P.args, **kwargs: P.kwargs
) -> ExitCode:
    """Run the body of a task, print its result or error, and return the exit code."""
    screen = app.screen
    try:
        require_values(sys.argv)
        if "format" in kwargs:
            screen.outputs = _outputs(app.start, kwargs, name)
        # Standard output is for the result; the output of seeds goes to standard error.
        with contextlib.redirect_stdout(sys.stderr):
            result = body(app, *args, **kwargs)
        if app.exit_code and isinstance(result, Report):
            result = result.ended_by(app.exit_code)
        if isinstance(result, Report) and (ignored := app.ignored_instance):
            result = replace(result, notes=(*result.notes, ignored))
        if result is not None:
            _show(app, result, has_forms="format" in kwargs)
        code = ExitCode.DONE if result is None else result.exit_code
        # Work that finished before SIGHUP stopped it keeps its own exit code.
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


def _show(app: Command, result: Result, *, has_forms: bool) -> None:
    """Print a result, and write its files.

    Args:
        has_forms: Whether the command has `--format` and `--out`.
    """
    if not isinstance(result, (Report, Listing)) or not has_forms:
        app.screen.show(result)
        return
    app.screen.registry = shown(app.registry_path, app.repository)
    app.screen.page_facts = functools.partial(_page_facts, app)
    app.screen.show(result)
    app.screen.write(result)


def _page_facts(app: Command, report: Report) -> Mapping[str, str]:
    """Return the facts of a run that a page has at its foot."""
    from importlib.metadata import version

    places = (f"{server} ({', '.join(names)})" for server, names in report.places.items())
    return {
        "command": report.command,
        "environment": report.environment,
        "servers": "; ".join(places) or f"{report.provider}: {report.provider_reason}",
        "instance": report.instance.get("name", ""),
        "commit": commit_of(app.repository) or "",
        "exit status": f"{int(report.exit_code)} ({report.exit_code.name})",
        "duration": f"{report.seconds:.2f} s",
        "written (UTC)": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        "huleedu-tasks": version("huleedu-tasks"),
    }


def _outputs(start: Path, flags: Mapping[str, Any], command: str) -> Outputs:
    """Return the forms that the flags of a command ask for.

    Raises:
        ConfigurationError: If they contradict each other, or name no form.
    """
    printed, json = flags["format"], flags["json"]
    if json and printed not in ("", Form.JSON):
        raise ConfigurationError(
            f"--json and --format {printed} exclude each other.",
            code="argument-conflict",
            hint="Leave out --json; `--out FILE.json` writes the document to a file.",
        )
    form = Form.JSON if json else printed
    outputs = parse_outputs(form, flags["out"] or (), start, makes_plan=command == PLANNING)
    if command == LISTING:
        _require_listing(outputs)
    return outputs


def _require_listing(outputs: Outputs) -> None:
    """Refuse a form that only a report has.

    Raises:
        ConfigurationError: If one is asked for.
    """
    forms = (outputs.printed, *(form for form, _ in outputs.files))
    for form in forms:
        if form not in (Form.TERMINAL, Form.JSON, Form.HTML):
            raise ConfigurationError(
                f"{LISTING} has no findings, and so no form {str(form)!r}.",
                code="argument-invalid",
                hint=f"Use one of: {Form.JSON}, {Form.HTML}.",
            )


def _with_lost_output(
    code: ExitCode, name: str, streams: Streams, screen: Screen, *, changes: bool
) -> ExitCode:
    """Print that the result could not be written, and return the exit code.

    Lost output is a failure only if the command does nothing else than print.

    Args:
        code: The exit code of the command itself.
        changes: Whether the command changes something besides printing.
    """
    if streams.lost is None:
        return code
    screen.say(
        f"{name}: The result was not written to standard output: {streams.lost.strerror}. "
        f"[{OUTPUT_LOST_CODE}]"
    )
    screen.say("What to do: Free disk space for standard output, or redirect it elsewhere.")
    return code if changes or code is not ExitCode.DONE else ExitCode.FAILED
