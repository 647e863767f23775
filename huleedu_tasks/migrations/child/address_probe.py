"""Reports to which database a service's `env.py` and `config.py` resolve, in many environments.

It runs in a child process with the service's interpreter, like `worker.py`. Alembic is run up to
its first connection, which is not opened. Each case is run in a forked process, because modules
keep values that they have read.
"""

from __future__ import annotations  # a service's interpreter may be older than ours

import contextlib
import gc
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import runpy
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

INSTRUCTIONS = "HULEEDU_ADDRESSES"
# Libraries that every case needs.
LIBRARIES = ("alembic.config", "alembic.runtime.environment", "sqlalchemy.engine")
HERE = os.path.dirname(os.path.abspath(__file__))
WORKER = os.path.join(HERE, "worker.py")
DRIVERS = runpy.run_path(os.path.join(HERE, "drivers.py"))
# Names of a variable or attribute with a URL.
URL_NAME = re.compile(r"(database|db|postgres(ql)?|pg|sqlalchemy)_?(ur[il]|dsn)$", re.IGNORECASE)
ANOTHERS = re.compile(r"test|replica|read_?only|async|admin", re.IGNORECASE)
LIKELIEST = "DATABASE_URL"
# Directories of installed libraries, also those that a .pth file adds.
INSTALLED = frozenset({"site-packages", "dist-packages"})
MAKERS = ("get_settings", "get_config", "settings", "Settings", "Config", "AppSettings")


# How pydantic shows a value, which may be a secret.
INPUT_VALUE = re.compile(r"input_value=.*?(?=, input_type=)", re.DOTALL)


# Seconds for one case.
SECONDS = 20
WAITING = "it waits for its database before Alembic connects"
TOO_LONG = f"it did not connect within {SECONDS} s"


class Waits(BaseException):
    """Code sleeps after a refused connection, to try again; every attempt would be refused."""


class Caught(BaseException):
    """Raised instead of connecting; `except Exception` of the service does not catch it."""


def main() -> None:
    """Run each case, and write its result to a file, one JSON document per line."""
    worker = runpy.run_path(WORKER)
    lifeline = worker["end_with_parent"]()
    instructions = json.loads(os.environ.pop(INSTRUCTIONS))
    options = json.loads(os.environ.pop(worker["OPTIONS"], "{}"))
    outside_of_service = worker["outside_of_service"]
    # A file for the inputs of each case; empty if they are not recorded.
    inputs = instructions["inputs"] or [""] * len(instructions["cases"])
    with outside_of_service():
        if any(inputs):
            worker["load_beside"]("input_tracker")
            worker["load_beside"]("target_check")
        for name in LIBRARIES:
            importlib.import_module(name)
        for name in DRIVERS["DRIVERS"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    # Open as long as the process lives; each line is written at once.
    answers = open(instructions["answers"], "a", buffering=1, encoding="utf-8")  # noqa: SIM115
    for number, case in enumerate(instructions["cases"]):
        case["inputs"] = inputs[number]
        case["options"] = options
        configs = instructions["configs"], instructions["loaded_configs"]
        answer = _in_a_process_of_its_own(case, configs, worker, lifeline)
        # Load large libraries once for all following cases.
        for name in answer.pop("libraries", ()):
            with contextlib.suppress(Exception), outside_of_service():
                importlib.import_module(name)
        answers.write(json.dumps({"case": case["name"], **answer}) + "\n")
    worker["end_process"](0)


def _in_a_process_of_its_own(
    case: dict[str, Any],
    configs: tuple[list[str], list[str]],
    worker: dict[str, Any],
    lifeline: int,
) -> dict[str, Any]:
    reading, writing = os.pipe()
    # The garbage collector must not touch pages that the child shares.
    gc.freeze()
    child = os.fork()
    if not child:
        try:
            worker["watch"](lifeline)
            _let_nothing_connect()
            with open(writing, "w", encoding="utf-8") as pipe:
                json.dump(_answer(case, configs, worker), pipe)
        finally:
            sys.stderr.flush()
            # Skip exit handlers and threads.
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    lost = {"error": f"its process ended with status {status} without a result", "output": ""}
    answer: dict[str, Any] = json.loads(text) if text else {"env": lost, "config": None}
    return answer


def _answer(
    case: dict[str, Any], configs: tuple[list[str], list[str]], worker: dict[str, Any]
) -> dict[str, Any]:
    before = set(sys.modules)
    os.environ.update(case["variables"])
    used = _recorded_inputs(case["inputs"], worker) if case["inputs"] else None
    env = _address_or_error(lambda: _of_env(case, worker), worker)
    config = _address_or_error(lambda: _of_config(*configs, case), worker)
    # The same inputs may have another answer if code waits.
    if used and not any(answer and answer.pop("waited", False) for answer in (env, config)):
        used.write()
    libraries = sorted(_libraries(set(sys.modules) - before))
    return {"env": env, "config": config, "libraries": libraries}


def _recorded_inputs(file: str, worker: dict[str, Any]) -> Any:
    variables = worker["load_beside"]("target_check").ReadVariables()
    return worker["Used"](file, variables, counts_sessions=False)


def _let_nothing_connect() -> None:
    """Refuse every connection. Those of SQLAlchemy are intercepted before."""
    import asyncio
    import signal
    import socket
    import time

    refused = []

    def refuse(*_: Any, **__: Any) -> Any:
        refused.append(True)
        raise ConnectionRefusedError("connections are refused while a service is checked")

    def watched(plain: Any) -> Any:
        def sleep(*args: Any, **options: Any) -> Any:
            if refused:
                raise Waits(WAITING)
            return plain(*args, **options)

        return sleep

    def too_long(*_: object) -> None:
        raise Waits(TOO_LONG)

    time.sleep, asyncio.sleep = watched(time.sleep), watched(asyncio.sleep)
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = refuse  # type: ignore[method-assign]
    for name in DRIVERS["DRIVERS"]:
        if driver := sys.modules.get(name):
            DRIVERS["replace_connect"](driver, refuse)


def _address_or_error(ask: Any, worker: dict[str, Any]) -> dict[str, Any] | None:
    """Return an address, or the error that prevented it; None if there is no address."""
    try:
        address: dict[str, Any] | None = ask()
        return address
    except BaseException as exit_or_error:
        error = exit_or_error
        if isinstance(error, SystemExit):
            # Alembic prints its error and exits; the context is the cause.
            error = error.__context__ or error
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            if isinstance(error, Exception):
                worker["show"](error)
        return {
            "error": _without_input(_in_one_line(error)),
            "output": _without_input(printed.getvalue()),
            "waited": isinstance(error, Waits),
            # The parent masks secrets, among them variables that the service has loaded.
            "variables": dict(os.environ),
        }


def _in_one_line(error: BaseException) -> str:
    """Return an exception with its first cause, in one line."""
    root = error
    while inner := root.__cause__ or (None if root.__suppress_context__ else root.__context__):
        root = inner
    shown, caused = (
        f"{type(exception).__name__}: {' '.join(str(exception).split())}".rstrip(": ")
        for exception in (error, root)
    )
    return shown if str(root) in str(error) else f"{shown} (caused by {caused})"


def _without_input(text: str) -> str:
    return INPUT_VALUE.sub("input_value=***", text)


def _of_env(case: dict[str, Any], worker: dict[str, Any]) -> dict[str, Any]:
    import alembic.config
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    caught: list[dict[str, Any]] = []

    def catch(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
        caught.append(
            {
                **_address(parameters, case, dialect.driver),
                "scheme": f"{dialect.name}+{dialect.driver}",
                "fits": not getattr(dialect, "is_async", False) or _is_asynchronous(),
            }
        )
        raise Caught

    event.listen(Engine, "do_connect", catch)
    worker["apply_options"](**case["options"])
    if case["url"]:
        # As in a migration; without a URL env.py uses its own configuration.
        worker["accept_percent_signs"]()
        worker["hand_over_url"](case["url"], case["options"].get("engine", ""))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            alembic.config.main(argv=[*sys.argv[1:], "current"], prog="alembic")
    except BaseException:
        if not caught:
            raise
    if not caught:
        raise LookupError("env.py ended without connecting through SQLAlchemy")
    return caught[0]


def _is_asynchronous() -> bool:
    """Whether SQLAlchemy runs in an event loop, which an asynchronous driver requires."""
    try:
        import greenlet  # type: ignore[import-untyped]  # its stubs are a package of their own
    except ImportError:
        return False
    return greenlet.getcurrent().parent is not None


def _of_config(
    files: list[str], if_loaded: list[str], case: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the URL of the first file that has one, with files that `env.py` loaded first.

    Args:
        files: Files that name a database.
        if_loaded: Files that are used only if `env.py` has loaded them.
        case: The case.

    Returns:
        The address; None if no file has a URL.
    """
    from sqlalchemy.engine import make_url

    names = {os.path.basename(file) for file in (*files, *if_loaded)}
    loaded = {
        os.path.realpath(file): module
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None))
        and (os.path.basename(file) in names or os.path.islink(file))
    }
    failure: BaseException | None = None
    own = [file for file in if_loaded if os.path.realpath(file) in loaded]
    for file in [*own, *(file for file in files if file not in own)]:
        try:
            module = loaded.get(os.path.realpath(file)) or _import(file)
            for text in _urls(module):
                url = make_url(text)
                parameters = {**url.translate_connect_args(), "user": url.username}
                return {**_address(parameters, case, ""), "scheme": url.drivername, "file": file}
        except BaseException as error:
            # Another file may contain the URL.
            failure = failure or error
    if failure:
        raise failure
    return None


def _address(parameters: dict[str, Any], case: dict[str, Any], driver: str) -> dict[str, Any]:
    """Return the address of a connection, and whether its password is the expected one."""
    password = parameters.get("password")
    if not password and driver.partition("_")[0] in DRIVERS["READING_PGPASSWORD"]:
        password = os.environ.get("PGPASSWORD")
    port = parameters.get("port")
    return {
        "user": parameters.get("user") or "",
        "host": parameters.get("host") or "",
        "port": int(port) if port else None,
        "database": parameters.get("database") or parameters.get("dbname") or "",
        "password": bool(password) and password == case["password"],
    }


def _import(file: str) -> ModuleType:
    """Import a file by its longest dotted name on `sys.path`, as other modules import it."""
    names = []
    for directory in filter(None, sys.path):
        stem = os.path.splitext(os.path.relpath(file, directory))[0]
        parts = stem.split(os.sep)
        if all(part.isidentifier() for part in parts):
            names.append(".".join(parts))
    for name in sorted(names, key=len, reverse=True):
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(name)
            if os.path.realpath(module.__file__ or "") == os.path.realpath(file):
                return module
    spec = importlib.util.spec_from_file_location("_probed_config", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} could not be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _urls(module: ModuleType) -> Iterator[str]:
    """Yield the PostgreSQL URLs of a module, from constants and attributes of settings."""
    for holder in _holders(module):
        names = [name for name in dir(holder) if URL_NAME.search(name) and name[0] != "_"]
        # DATABASE_URL first, names of other databases last.
        for name in sorted(names, key=lambda n: (n != LIKELIEST, bool(ANOTHERS.search(n)), n)):
            url = _url_string(getattr(holder, name))
            if url.startswith("postgres"):
                yield url


def _holders(module: ModuleType) -> Iterator[object]:
    yield module
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    for value in own.values():
        if not isinstance(value, (type, ModuleType)) and not callable(value):
            yield value
    for name in MAKERS:
        if callable(own.get(name)):
            yield own[name]()


def _url_string(value: object) -> str:
    """Return the string of a URL, from a function, a SecretStr or an SQLAlchemy URL."""
    if inspect.isroutine(value):
        parameters = inspect.signature(value).parameters.values()
        is_plain = all(item.default is not item.empty for item in parameters)
        value = value() if is_plain else ""
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if hasattr(value, "render_as_string"):
        value = value.render_as_string(hide_password=False)
    return str(value)


def _libraries(names: set[str]) -> Iterator[str]:
    import sysconfig

    places = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and (file.startswith(places) or not INSTALLED.isdisjoint(file.split(os.sep))):
            yield name


if __name__ == "__main__":
    main()
