"""Initialises the empty volumes of several new containers from one `initdb`.

An image runs `initdb` on each empty volume, for a second of processor time each, and flushes each
file. Here the image initialises one data directory in memory, in a helper container, which then
copies it to the volumes. Each copy gets its own database name and system identifier. Everything
that the image finds in a volume on its first start is what it would have made itself.

The work is done in a directory of the volume. `PG_VERSION`, without which the image does not take
a directory for a data directory, is moved to its place last.
"""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from huleedu_tasks.compose.container_state import ContainerState, Mount
from huleedu_tasks.compose.engine import Engine
from huleedu_tasks.errors import HuleEduError, ServerError
from huleedu_tasks.parallel import run_to_end
from huleedu_tasks.postgres.control_file import new_identifier, with_identifier
from huleedu_tasks.postgres.databases import quoted

_MEMORY = "/huleedu-tasks"
_SOURCE = f"{_MEMORY}/data"
_VOLUMES = f"{_MEMORY}-volumes"
UNFINISHED = "huleedu-tasks.unfinished"
_DATABASE = "POSTGRES_DB"
_USER = "POSTGRES_USER"
_DATA = "PGDATA"
_DEFAULT_DATABASE = "postgres"
_WAL_DIRECTORY = "POSTGRES_INITDB_WALDIR"
_SERVER = "postgres"
_IS_USABLE = "usable "
_IS_OWNER = "owner "
# How many volumes are filled at once. Their containers start while the next ones are filled.
_AT_ONCE = 4
# The scripts print something after each step, since the engine's answer must not take too long.
# The image's entry point runs `initdb`, creates the database and starts the server. Each copy gets
# a write-ahead log of its own.
_INITIALISE = f"""\
set -eu
[ -z "$(ls -A /docker-entrypoint-initdb.d 2>/dev/null)" ]
initialise() {{
    while [ "$1" != -- ]; do shift; done
    shift
    "$@" >/dev/null 2>&1 &
    until pg_isready --quiet --host=127.0.0.1; do
        kill -0 $!
        echo waiting
        sleep 0.1
    done
    kill -INT $!
    wait $!
    [ ! -L "$PGDATA/pg_wal" ]
    rm "$PGDATA"/pg_wal/0*
}}
initialise "$@"
owner=$(stat -c %u:%g "$PGDATA")
mode=$(stat -c %a "$PGDATA")
echo "{_IS_OWNER}$owner"
od -An -v -tx1 "$PGDATA/global/pg_control"
while [ "$1" != -- ]; do
    if [ -e "$1/{UNFINISHED}" ]; then find "$1" -mindepth 1 -delete; fi
    if [ ! -d "$1" ] || [ -z "$(ls -A "$1")" ]; then
        mkdir -p "$1/{UNFINISHED}"
        chown "$owner" "$1" "$1/{UNFINISHED}"
        chmod "$mode" "$1"
        echo "{_IS_USABLE}$1"
    fi
    shift
done
"""
# In groups of three arguments: the directory, the fields of the control file, the SQL or nothing.
_FILL = f"""\
set -eu
copy() {{
    made="$1/{UNFINISHED}/data"
    cp -a "$PGDATA" "$made"
    echo copied
    printf "$2" | dd of="$made/global/pg_control" conv=notrunc 2>/dev/null
    pg_resetwal -D "$made" >/dev/null
    if [ "$3" ]; then
        printf '%s\\n' "$3" |
            postgres --single -F -c exit_on_error=on -D "$made" postgres >/dev/null 2>&1
    fi
    echo changed
}}
copy_all() {{
    running=
    while [ $# -gt 0 ]; do
        copy "$1" "$2" "$3" &
        running="$running $!"
        shift 3
    done
    for process in $running; do wait "$process"; done
}}
flush_all() {{
    while [ $# -gt 0 ]; do
        sync -f "$1"
        echo flushed
        shift 3
    done
}}
move_all() {{
    while [ $# -gt 0 ]; do
        made="$1/{UNFINISHED}/data"
        mv "$made/PG_VERSION" "$1/{UNFINISHED}"
        mv "$made"/* "$1"
        mv "$1/{UNFINISHED}/PG_VERSION" "$1"
        rm -r "$1/{UNFINISHED}"
        shift 3
    done
}}
copy_all "$@"
flush_all "$@"
move_all "$@"
flush_all "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """A container that was never started, and its volume.

    Attributes:
        mount: The mount of its data.
        directory: The data directory in the helper container.
        identifier: The system identifier that its copy gets.
    """

    container: ContainerState
    mount: Mount
    directory: str
    identifier: int = field(default_factory=new_identifier)

    @property
    def database(self) -> str:
        """The database that the image creates."""
        variables = self.container.variables
        return variables.get(_DATABASE) or variables.get(_USER) or _DEFAULT_DATABASE

    @property
    def likeness(self) -> tuple[object, ...]:
        """What two containers have in common whose images would initialise them alike."""
        own = (_DATABASE, _DATA)
        variables = [item for item in self.container.variables.items() if item[0] not in own]
        return (self.container.image, self.database == _DEFAULT_DATABASE, *sorted(variables))


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshVolumes:
    """The volumes of new containers of a compose project."""

    engine: Engine
    project: str

    async def groups(self, containers: Iterable[ContainerState]) -> list[list[Fresh]]:
        """Return the containers that can be initialised together, in groups.

        Helper containers that an interrupted command has left are removed first.

        A container that does not resemble the image alone is left to the image: with other mounts
        (init scripts), another entry point or command, or a volume that Compose did not create.
        """
        return await asyncio.to_thread(self._groups, [*containers])

    async def fill(self, fresh: Sequence[Fresh]) -> AsyncIterator[Mapping[str, int]]:
        """Initialise the volumes of a group that are empty, or were left unfinished.

        If that fails, containers and volumes that may be unfinished are removed.

        Yields:
            Compose services whose volumes were filled just now, with their system identifiers.
        """
        filling = self._fill(fresh)
        try:
            while filled := await self._next(filling):
                yield filled
        finally:
            await run_to_end(asyncio.to_thread(filling.close))

    async def _next(self, filling: Iterator[Mapping[str, int]]) -> Mapping[str, int] | None:
        """Return the volumes that were filled next; `None` if none is left.

        If the task is cancelled, the helper container is removed, which ends the thread.
        """
        step = asyncio.ensure_future(asyncio.to_thread(next, filling, None))
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            await run_to_end(asyncio.to_thread(self.engine.remove_helpers, self.project))
            await run_to_end(step)
            raise

    def _groups(self, containers: Sequence[ContainerState]) -> list[list[Fresh]]:
        self.engine.remove_helpers(self.project)
        entrypoints = {
            image: self.engine.entrypoint(image)
            for image in {container.image for container in containers}
        }
        groups: dict[tuple[object, ...], list[Fresh]] = {}
        for number, container in enumerate(containers):
            mount = container.data_mount
            is_plain = _is_plain(container, entrypoints[container.image])
            if mount and is_plain and self.engine.owns_volume(mount.volume, self.project):
                inside = PurePosixPath(container.data_directory).relative_to(mount.path)
                directory = str(PurePosixPath(_VOLUMES, str(number), inside))
                fresh = Fresh(container=container, mount=mount, directory=directory)
                groups.setdefault(fresh.likeness, []).append(fresh)
        return [*groups.values()]

    def _fill(self, fresh: Sequence[Fresh]) -> Generator[Mapping[str, int], None, None]:
        first = fresh[0]
        variables = {**first.container.variables, _DATABASE: first.database, _DATA: _SOURCE}
        mounts = {found.mount.volume: _mount_point(found) for found in fresh}
        unfinished: list[Fresh] = []
        try:
            with self.engine.helper(
                self.project, first.container.image, variables, mounts, memory=_MEMORY
            ) as helper:
                begin = [*self.engine.entrypoint(first.container.image), _SERVER]
                directories = [found.directory for found in fresh]
                lines = self._run(helper, _INITIALISE, [*directories, "--", *begin]).splitlines()
                named = _values_of(_IS_USABLE, lines)
                unfinished = [found for found in fresh if found.directory in named]
                (owner,) = _values_of(_IS_OWNER, lines)
                control = bytes.fromhex("".join(line for line in lines if line.startswith(" ")))
                while unfinished:
                    filled = unfinished[:_AT_ONCE]
                    copies = [part for found in filled for part in _copy(found, first, control)]
                    self._run(helper, _FILL, copies, user=owner)
                    unfinished = unfinished[_AT_ONCE:]
                    yield {found.container.service: found.identifier for found in filled}
        except (HuleEduError, ValueError):
            for found in unfinished:
                with suppress(HuleEduError):
                    self.engine.remove_container(found.container)
                    self.engine.remove_volume(found.mount.volume)

    def _run(
        self, helper: ContainerState, script: str, arguments: Sequence[str], *, user: str = ""
    ) -> str:
        command = ["sh", "-c", script, "sh", *arguments]
        code, output = self.engine.execute(helper, command, {}, user=user)
        if code != 0:
            raise ServerError(
                f"The helper container {helper.name} failed: {output.strip()}.",
                code="docker-failed",
                hint="Check whether the engine still runs: `docker info`.",
            )
        return output


def _is_plain(container: ContainerState, entrypoint: Sequence[str]) -> bool:
    """Whether nothing but the image and its variables decides how a volume is initialised."""
    variables = container.variables
    names_file = any(name.startswith("POSTGRES") and name.endswith("_FILE") for name in variables)
    return (
        container.is_unstarted
        and len(container.mounts) == 1
        and bool(entrypoint)
        and container.entrypoint == entrypoint
        and not container.user
        and container.command[:1] == (_SERVER,)
        and not names_file
        and _WAL_DIRECTORY not in variables
        and container.data_directory != "/"
        and "\n" not in (variables.get(_DATABASE) or variables.get(_USER) or "")
    )


def _mount_point(fresh: Fresh) -> str:
    return str(PurePosixPath(*PurePosixPath(fresh.directory).parts[:3]))


def _values_of(label: str, lines: Iterable[str]) -> list[str]:
    return [line.removeprefix(label) for line in lines if line.startswith(label)]


def _copy(fresh: Fresh, first: Fresh, control: bytes) -> tuple[str, str, str]:
    """Return the arguments that describe a copy of the data directory."""
    fields = with_identifier(control, fresh.identifier)
    escaped = "".join(f"\\{byte:03o}" for byte in fields)
    rename = f"ALTER DATABASE {quoted(first.database)} RENAME TO {quoted(fresh.database)}"
    return fresh.directory, escaped, rename if fresh.database != first.database else ""
