"""The events of one run of `prod.migrate` in words, for the screen of `prod.history --run`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.prod.journal import BEGAN, ENDED, RUNNING, Event, Run

HEADERS = ("time (UTC)", "elapsed", "service", "event")
# The length of the abbreviated commit.
COMMIT = 12
Moment = tuple[str, str, str, str]
# The service, empty for an event of the whole run, and a sentence.
Words = Iterator[tuple[str, str]]


def timeline(run: Run) -> tuple[Moment, ...]:
    """Return a row for each event: time of day, time since the start, service, and words.

    An event of an unknown structure is shown with its fields.
    """
    start = datetime.fromisoformat(run.began["time"])
    moments: list[Moment] = []
    for event in run.events:
        time = datetime.fromisoformat(event["time"])
        elapsed = f"{(time - start).total_seconds():.1f} s"
        begin = (f"{time.astimezone(UTC):%H:%M:%S}", elapsed)
        for service, words in _in_words(event):
            moments.append((*begin, service, words))
            begin = ("", "")
    if run.events[-1]["event"] != ENDED:
        moments.append(("", "", "", _without_end(run)))
    return tuple(moments)


def _in_words(event: Event) -> Sequence[tuple[str, str]]:
    try:
        return tuple(EVENTS[event["event"]](event))
    except (KeyError, TypeError, AttributeError, ValueError):
        facts = ", ".join(f"{k}={v}" for k, v in event.items() if k not in ("time", "event"))
        return (("", f"{event['event']}: {facts}" if facts else str(event["event"])),)


def _without_end(run: Run) -> str:
    if run.outcome == RUNNING:
        return "is still running"
    return "no end was recorded: the process was killed; `invoke prod.status` shows the revisions"


def _began(event: Event) -> Words:
    commit = f", at commit {event['commit'][:COMMIT]}" if event.get("commit") else ""
    who = f"{event['user']}@{event['host']}"
    yield "", f"{who} began {event['command']} in {event['environment']}{commit}"


def _planned(event: Event) -> Words:
    for pin in event["services"]:
        tag = "will set the environment tag" if pin["marks"] else ""
        revisions = f"{_step(pin)} ({', '.join(pin['files'])})" if pin["files"] else ""
        yield pin["service"], f"planned: {', '.join(filter(None, (revisions, tag)))}"


def _resumed(event: Event) -> Words:
    for found in event["services"]:
        runs = f" by {', '.join(found['applied_by'])}" if found["applied_by"] else ""
        left = f"{len(found['left'])} of the plan remain" if found["left"] else "nothing to do"
        applied = ", ".join(found["already_applied"])
        yield found["service"], f"already applied{runs}: {applied}; {left}"


def _confirmed(event: Event) -> Words:
    how = "with --yes and --host" if event["by"] == "arguments" else "at the terminal"
    yield "", f"changes on {', '.join(event['hosts'])} were confirmed {how}"


def _locked(event: Event) -> Words:
    yield event["service"], "the advisory lock was taken"


def _backed_up(event: Event) -> Words:
    if event["by"] == "command":
        yield "", "the backup command succeeded"
    else:
        yield event["service"], f"was dumped to {event['path']}"


def _not_backed_up(event: Event) -> Words:
    yield "", "no backup was taken"


def _migrating(event: Event) -> Words:
    yield event["service"], f"the migration began: {_step(event)}"


def _waited(event: Event) -> Words:
    attempt = f"attempt {event['attempt']} timed out while waiting for a lock"
    yield event["service"], f"{attempt}: {event['blockers']}"


def _migrated(event: Event) -> Words:
    at = "an unknown revision" if event["at"] is None else named(event["at"])
    how = "migrated" if event["event"] == "migrated" else "failed"
    detail = event["detail"]
    yield event["service"], f"{how} after {event['seconds']:.1f} s, at {at}: {detail}"
    for revision in event["revisions"]:
        seconds = revision["seconds"]
        taken = "duration not known" if seconds is None else f"{seconds:.2f} s"
        yield event["service"], f"  {revision['revision']}  {taken}  {revision['message']}".rstrip()


def _not_begun(event: Event) -> Words:
    yield event["service"], f"was not begun, because of: {event['because']}"


def _tagged(event: Event) -> Words:
    yield event["service"], f"was tagged as {event['environment']}"


def _ended(event: Event) -> Words:
    yield "", f"ended with {event['outcome']}, exit status {event['exit_code']}"
    for text in (event.get("detail"), *event.get("findings", ())):
        if text:
            yield "", f"  {text}"


def _step(event: Event) -> str:
    return f"{named(event['before'])} -> {named(event['after'])}"


EVENTS: Mapping[str, Callable[[Event], Words]] = {
    BEGAN: _began,
    "planned": _planned,
    "resumed": _resumed,
    "confirmed": _confirmed,
    "locked": _locked,
    "backed up": _backed_up,
    "not backed up": _not_backed_up,
    "migrating": _migrating,
    "waited too long": _waited,
    "migrated": _migrated,
    "not migrated": _migrated,
    "not begun": _not_begun,
    "marked": _tagged,
    ENDED: _ended,
}
