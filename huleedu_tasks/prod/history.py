"""Show the runs of `prod.migrate` from their records."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.prod.journal import ENDED, UNREADABLE, Event, Run
from huleedu_tasks.prod.timeline import HEADERS, timeline
from huleedu_tasks.report import Fact, Listing, Moment, PastRun, Report, Status

COMMAND = "prod.history"
RUN_COLUMNS = ("run", "environment", "outcome", "who", "commit", "migrated", "detail")
EVENT_COLUMNS = ("time", "event", "facts")


def list_of(runs: Sequence[Run]) -> Listing:
    """Return one row for each run."""
    rows = [_row(run) for run in runs]
    for row in rows:
        row["resumed_by"] = [
            str(later["run"]) for later in rows if row["run"] in _ids(later["resumes"])
        ]
        row["detail"] = "; ".join(filter(None, (str(row["detail"]), *_links(row))))
    return Listing(command=COMMAND, key="runs", columns=RUN_COLUMNS, rows=tuple(rows))


def with_page(listing: Listing, runs: Sequence[Run], name: str) -> Listing:
    """Return a listing with a page: of one run with its moments, or of several.

    Args:
        runs: The runs of the page.
        name: The id of one run, or a prefix of it; an empty string for all of them.
    """
    chosen = [run for run in runs if run.id.startswith(name)]
    page = Report(
        command=COMMAND,
        environment=", ".join(
            dict.fromkeys(str(_row(run)["environment"] or "unknown") for run in chosen)
        ),
        provider="records",
        provider_reason=f"{len(chosen)} run{'s' * (len(chosen) != 1)}",
        outcomes=(),
        past=past_runs(chosen),
        moments=moments_of(chosen[0]) if name else (),
    )
    return replace(listing, page=page)


def moments_of(run: Run) -> tuple[Moment, ...]:
    """Return the timeline of a run for a page."""
    return tuple(
        Moment(time=" ".join((time, elapsed)).strip(), service=service, text=text)
        for time, elapsed, service, text in timeline(run)
    )


def past_runs(runs: Sequence[Run]) -> tuple[PastRun, ...]:
    """Return the runs for the page of a report."""
    return tuple(
        PastRun(
            run=str(row["run"]),
            began=str(row["began"] or ""),
            who=str(row["who"] or ""),
            outcome=str(row["outcome"]),
            migrated=tuple(_ids(row["migrated"])),
            detail=str(row["detail"]),
        )
        for row in map(_row, runs)
    )


def events_of(runs: Sequence[Run], name: str) -> Listing:
    """Return one row for each event of a run, and its timeline for the screen.

    Args:
        name: The id of the run, or a prefix of it.

    Raises:
        ConfigurationError: If the prefix does not match exactly one run, or its record cannot be
            read.
    """
    found = [run for run in runs if run.id.startswith(name)]
    if len(found) != 1:
        known = ", ".join(run.id for run in runs[:5]) or "none"
        raise ConfigurationError(
            f"{len(found) or 'No'} run ids begin with {name!r}.",
            code="run-unknown",
            hint=f"Pass the id of one run with --run; the latest are: {known}.",
        )
    (run,) = found
    if run.problem:
        raise ConfigurationError(
            f"The record {run.path} could not be read: {run.problem}.",
            code="record-unreadable",
            hint="Correct its permissions, or remove it.",
        )
    rows = tuple(map(_event_row, run.events))
    return Listing(
        command=COMMAND,
        key="events",
        columns=EVENT_COLUMNS,
        rows=rows,
        shown=(HEADERS, *timeline(run)),
    )


def _row(run: Run) -> dict[str, Fact]:
    """Return the row of a run; a record of an unexpected structure gets a row with the error."""
    if run.problem:
        return _unreadable_row(run, run.problem)
    try:
        return _readable_row(run)
    except (KeyError, TypeError, AttributeError) as error:
        return _unreadable_row(
            run, f"an event has an unexpected structure: {type(error).__name__}: {error}"
        )


def _unreadable_row(run: Run, problem: str) -> dict[str, Fact]:
    nothing = dict.fromkeys(("environment", "who", "commit", "began", "ended", "pid"))
    return {
        "run": run.id,
        **nothing,
        "outcome": UNREADABLE,
        "migrated": [],
        "resumes": [],
        "detail": f"{run.path}: {problem}",
        "path": str(run.path),
    }


def _readable_row(run: Run) -> dict[str, Fact]:
    began, last = run.began, run.events[-1]
    failed = [f"{event['service']}: {event['detail']}" for event in run.of("not migrated")]
    return {
        "run": run.id,
        "environment": began["environment"],
        "outcome": run.outcome,
        "who": f"{began['user']}@{began['host']}",
        "commit": began.get("commit"),
        "migrated": [str(event["service"]) for event in run.of("migrated")],
        "resumes": _earlier_runs(run),
        "detail": "; ".join([*failed, *_unfinished(run)]) or _reason_of_end(run),
        "began": began["time"],
        "ended": last["time"],
        "pid": began.get("pid"),
        "path": str(run.path),
    }


def _earlier_runs(run: Run) -> list[str]:
    """Return the runs whose plan a run went on with, the first one first."""
    services = [found for event in run.of("resumed") for found in event["services"]]
    return sorted({str(name) for found in services for name in found["applied_by"]})


def _links(row: Mapping[str, Fact]) -> list[str]:
    """Return the earlier and the later runs of the same plan, in words."""
    earlier, later = _ids(row["resumes"]), _ids(row["resumed_by"])
    return [
        *([f"the same plan as {', '.join(earlier)}"] if earlier else []),
        *([f"the same plan again in {', '.join(reversed(later))}"] if later else []),
    ]


def _ids(runs: Fact) -> list[str]:
    return list(map(str, runs)) if isinstance(runs, list) else []


def _unfinished(run: Run) -> list[str]:
    """Return a sentence for each migration that a run began and did not record the end of."""
    ended = {event["service"] for event in run.of("migrated", "not migrated")}
    begun = (event["service"] for event in run.of("migrating"))
    said = (
        "is being migrated"
        if run.is_running
        else "was being migrated; `invoke prod.status` shows its revision"
    )
    return [f"{name} {said}" for name in begun if name not in ended]


def _reason_of_end(run: Run) -> str:
    """Return the reason that the last event of a run gives; empty string if it gives none."""
    last = run.events[-1]
    services: dict[str, str] = last.get("services", {}) if last["event"] == ENDED else {}
    # A reason that several services share is shown once.
    stopped = dict.fromkeys(
        ended.partition(" ")[2] for ended in services.values() if not ended.startswith(Status.OK)
    )
    return str(last.get("detail", "")) or "; ".join(stopped)


def _event_row(event: Event) -> dict[str, Fact]:
    facts = [f"{name}={value}" for name, value in event.items() if name not in ("time", "event")]
    return {"time": event["time"], "event": event["event"], "facts": facts}
