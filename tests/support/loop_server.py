"""The fork servers of forked commands, forked from an interpreter that has imported Alembic.

A command starts the fork server of its migrations as `python .../child/fork_loop.py`. A forked
command starts a substitute, which passes its file descriptors to this server and waits. The server
forks a process for it, which does what the fork server does.

The server runs as `python tests/support/loop_server.py FORK_LOOP ADDRESS`, and ends when its
standard input is closed.
"""

import importlib
import os
import runpy
import select
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

LARGEST_REQUEST = 1 << 20
# Imports little, because it runs for each command.
SUBSTITUTE = """\
import os
import struct
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket

server = socket(AF_UNIX, SOCK_SEQPACKET)
server.connect({address!r})
variables = [name + b"=" + value for name, value in os.environb.items()]
message = b"\\0".join([os.getcwdb(), *variables])
server.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, struct.pack("3i", 0, 1, 2))])
for descriptor in (0, 1, 2):
    os.close(descriptor)
server.recv(1)
os._exit(0)
"""


def write_substitute(directory: Path, address: str) -> Path:
    """Write the program that a command starts instead, at a path that ends like the real one."""
    path = directory / "child" / "fork_loop.py"
    path.parent.mkdir()
    path.write_text(SUBSTITUTE.format(address=address))
    return path


class Loop:
    """The fork server of commands, with its libraries imported at the first request.

    Args:
        path: The path of `fork_loop.py`.
    """

    def __init__(self, path: str) -> None:
        # As in an interpreter that was started with this program.
        sys.argv = [path]
        sys.path[0] = str(Path(path).parent)
        sys.modules["__main__"].__file__ = path
        self._names: dict[str, Any] = {}
        self._path = path

    def prepare(self) -> None:
        """Import what a fork server imports."""
        if not self._names:
            self._names = runpy.run_path(self._path)
            self._worker = runpy.run_path(str(Path(self._path).with_name("worker.py")))
            with self._worker["outside_of_service"]():
                for name in (self._names["DRIVER"], *self._names["LIBRARIES"]):
                    importlib.import_module(name)

    def run(self) -> None:
        """Serve one command until it closes our standard input."""
        news = os.dup(1)
        os.dup2(2, 1)
        self._names["ForkLoop"](self._worker, news).serve()


def serve(listener: socket.socket, loop: Loop) -> None:
    """Fork a process for each connection until standard input is closed."""
    while True:
        ready, _, _ = select.select([0, listener.fileno()], [], [])
        if 0 in ready:
            return
        connection, _ = listener.accept()
        with connection:
            loop.prepare()
            message, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
            if os.fork() == 0:
                listener.close()
                _become(message, descriptors)
                loop.run()
                _leave(connection)
            for descriptor in descriptors:
                os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _become(message: bytes, descriptors: list[int]) -> None:
    """Set what a new process inherits."""
    os.setsid()
    directory, *variables = message.split(b"\0")
    os.chdir(directory)
    os.environb.clear()
    os.environb.update(dict(variable.split(b"=", 1) for variable in variables))
    for target, source in enumerate(descriptors):
        os.dup2(source, target)
        os.close(source)


def _leave(connection: socket.socket) -> NoReturn:
    with suppress(OSError):
        connection.send(b"0")
    os._exit(0)


if __name__ == "__main__":
    fork_loop, address = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{address}")
        listener.listen()
        # The commands may begin.
        os.write(1, b"\n")
        serve(listener, Loop(fork_loop))
    os._exit(0)
