"""Forwarding to a server with TLS: what is not encrypted and verified is refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.tls_forwarding import without_tls

# An AuthenticationOk, which a program would accept as that of the server.
INSERTED = b"R\x00\x00\x00\x08\x00\x00\x00\x00"


def url_of(port: int = 5432, **tls: str) -> DatabaseUrl:
    return DatabaseUrl(
        user="u",
        password=Secret("p"),
        host="127.0.0.1",
        port=port,
        database="orders",
        query=tuple(tls.items()),
    )


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
        reader, writer = await asyncio.open_connection(reached.host, reached.port)
        assert await reader.read() == b""
        writer.close()
