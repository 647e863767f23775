"""Forwarding to a server with TLS: what is not encrypted and verified is refused."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.postgres.tls_forwarding import _context, without_tls

# An AuthenticationOk, which a program would accept as that of the server.
INSERTED = b"R\x00\x00\x00\x08\x00\x00\x00\x00"


def url_of(port: int = 5432, /, **tls: str) -> DatabaseUrl:
    return DatabaseUrl(
        user="u",
        password=Secret("p"),
        host="127.0.0.1",
        port=port,
        database="orders",
        query=tuple(tls.items()),
    )


def is_private(directory: str) -> bool:
    return Path(directory).stat().st_mode & 0o077 == 0


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """Run a server that sends an answer to the request for TLS; yield its port."""

    async def answer_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(answer)
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(answer_request, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def test_bytes_before_the_tls_handshake_close_the_connection() -> None:
    async with (
        asyncio.timeout(5),
        answering(b"S" + INSERTED) as port,
        without_tls(url_of(port, sslmode="require")) as reached,
    ):
        assert is_private(reached.host)
        reader, writer = await asyncio.open_unix_connection(
            f"{reached.host}/.s.PGSQL.{reached.port}"
        )
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    "tls",
    [
        {"sslmode": "require", "sslcrl": "/revoked.pem"},
        {"sslmode": "require", "ssl_min_protocol_version": "TLSv1.3"},
        {"sslmode": "verify-full"},
        {"sslmode": "verify-ca", "sslrootcert": "/missing.pem"},
        {"sslmode": "require", "sslrootcert": "system"},
        {"sslmode": "require", "sslcert": "/missing.pem"},
    ],
    ids=str,
)
async def test_settings_that_cannot_be_applied_are_refused(
    tls: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError) as raised:
        async with without_tls(url_of(**tls)):
            pass
    assert raised.value.code == "tls-setting-unusable"


def test_the_usual_authorities_verify_a_connection_as_in_libpq(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _context(url_of(sslmode="require"), "require").verify_mode is ssl.CERT_NONE
    (tmp_path / ".postgresql").mkdir()
    trustme.CA().cert_pem.write_to_path(tmp_path / ".postgresql/root.crt")
    for mode, checks_name in (("require", False), ("verify-ca", False), ("verify-full", True)):
        context = _context(url_of(sslmode=mode), mode)
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, checks_name)
    (tmp_path / ".postgresql/root.crl").touch()
    with pytest.raises(ConfigurationError, match=r"root\.crl is not supported"):
        _context(url_of(sslmode="verify-full"), "verify-full")


async def test_a_path_that_is_too_long_for_a_socket_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (long := tmp_path / ("d" * 100)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(ConfigurationError) as raised:
        async with without_tls(url_of(sslmode="require")):
            pass
    assert raised.value.code == "temporary-directory-unwritable"
