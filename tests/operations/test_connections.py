"""Limits of a connection to a running server, and of many connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from app.api.connections import GuardedConfig
from app.config import Settings
from tests.operations.conftest import Served, served

CONNECTIONS = 20
LIVE = b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(folder: Path) -> AsyncIterator[Served]:
    settings = {
        "MAX_CONNECTIONS": str(CONNECTIONS),
        "HEADER_TIMEOUT": "0.5",
        "MAX_BODY_BYTES": "65536",
        "BODY_TIMEOUT": "0.5",
        "DRAIN_SECONDS": "0",
    }
    async with served(folder, **settings) as started:
        yield started


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def status(self) -> int:
        """The status of the next answer, whose body is read too."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-len"))
        await self.reader.readexactly(length)
        return int(head.split()[1])

    async def closed(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), 10) == b""
        except ConnectionResetError:
            return True


Dial = Callable[[], Awaitable[Wire]]


@pytest.fixture
async def dial(server: Served) -> AsyncIterator[Dial]:
    """Opens connections, which are closed after the test."""
    wires: list[Wire] = []

    async def connect() -> Wire:
        wires.append(Wire(*await asyncio.open_connection("127.0.0.1", server.port)))
        return wires[-1]

    yield connect
    for wire in wires:
        wire.writer.close()
        with suppress(ConnectionError):
            await wire.writer.wait_closed()


async def test_a_head_that_never_ends_times_out(dial: Dial) -> None:
    wire = await dial()
    wire.writer.write(b"GET /health/live HTTP/1.1\r\n")
    assert await wire.status() == 408
    assert await wire.closed()


async def test_a_silent_connection_is_closed(dial: Dial) -> None:
    assert await (await dial()).closed()


async def test_an_idle_connection_outlives_the_limits_of_clients(dial: Dial) -> None:
    """httpx closes an idle connection after 5 s, load balancers after 60 s. A server that closes it earlier may do so
    while the next request is on its way, which is then not answered."""
    assert Settings.model_fields["keep_alive_timeout"].default > 60
    wire = await dial()
    for pause in (5.5, 0):
        wire.writer.write(LIVE)
        assert await wire.status() == 200
        await asyncio.sleep(pause)


async def test_a_second_head_has_the_limits_of_the_first(dial: Dial) -> None:
    wire = await dial()
    wire.writer.write(LIVE)
    assert await wire.status() == 200
    wire.writer.write(LIVE[:10])
    assert await wire.status() == 408


@pytest.mark.parametrize("before", [b"", LIVE])
async def test_the_length_of_a_head_is_limited(dial: Dial, before: bytes) -> None:
    wire = await dial()
    wire.writer.write(before + b"GET /health/live HTTP/1.1\r\nx-long: ")
    if before:
        assert await wire.status() == 200
    wire.writer.write(b"x" * (GuardedConfig.head_bytes + 1))
    assert await wire.status() == 431
    assert await wire.closed()


async def test_a_body_does_not_count_as_a_head(dial: Dial) -> None:
    wire = await dial()
    body = b" " * 50_000
    head = b"POST /search/query HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    wire.writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert await wire.status() == 400
    wire.writer.write(LIVE)
    assert await wire.status() == 200


async def test_a_rejected_short_body_keeps_its_connection(dial: Dial) -> None:
    wire = await dial()
    wire.writer.write(
        b"POST /search/query HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"
    )
    assert await wire.status() == 415
    wire.writer.write(LIVE)
    assert await wire.status() == 200


async def test_an_unfinished_body_times_out_and_a_long_one_is_rejected_at_its_head(dial: Dial) -> None:
    slow, long = await dial(), await dial()
    slow.writer.write(b"POST /search/query HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\n\r\n1")
    long.writer.write(b"POST /search/query HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000000000\r\n\r\n1")
    assert await long.status() == 413
    assert await slow.status() == 408
    assert await long.closed()
    assert await slow.closed()


async def test_idle_connections_never_lock_other_clients_out(dial: Dial) -> None:
    idle = []
    for _ in range(CONNECTIONS * 3):
        wire = await dial()
        wire.writer.write(LIVE)
        assert await wire.status() == 200
        idle.append(wire)
    gone = idle[: CONNECTIONS * 2]
    assert all(await asyncio.gather(*(wire.closed() for wire in gone)))
    idle[-1].writer.write(LIVE)
    assert await idle[-1].status() == 200
