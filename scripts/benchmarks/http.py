"""An HTTP/1.1 client with little overhead, so that a benchmark measures the server.

One request at a time on each connection. With a stub on loopback, one process sends over 10,000 requests a second;
httpx saturates near 700.
"""

import asyncio
from typing import Any, Self, cast
from urllib.parse import urlsplit

import orjson


class Connection(asyncio.Protocol):
    """Kept alive; answers must carry Content-Length."""

    def __init__(self, host: str, key: str | None) -> None:
        self._host = host
        self._key = f"x-api-key: {key}\r\n" if key else ""
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._needed: int | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, url: str, key: str | None = None) -> Self:
        made = cls(urlsplit(url).netloc, key)
        await made._connect()
        return made

    async def _connect(self) -> None:
        """Also after a connection was closed: servers close those that were idle for long."""
        parts = urlsplit(f"//{self._host}")
        await asyncio.get_running_loop().create_connection(lambda: self, parts.hostname, parts.port)

    async def call(self, method: str, path: str, body: object = None, *, expect: tuple[int, ...] = (200, 201)) -> Any:
        """The parsed answer. Raises RuntimeError for a status that was not expected."""
        status, content = await self.send(method, path, b"" if body is None else orjson.dumps(body))
        if status not in expect:
            raise RuntimeError(f"{method} {path}: {status} {content[:500]!r}")
        return orjson.loads(content)

    async def send(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """(status, body)."""
        if self._transport is None or self._transport.is_closing():
            await self._connect()
        assert self._transport is not None
        assert self._answer is None or self._answer.done(), "one request at a time"
        self._answer = asyncio.get_running_loop().create_future()
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\n{self._key}content-type: application/json\r\n"
        self._transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._needed is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._received[:end]).lower()
            self._needed = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self._received) >= self._needed and self._answer is not None:
            content = bytes(self._received)
            self._received.clear()
            self._needed = None
            self._answer.set_result((int(content[9:12]), content.partition(b"\r\n\r\n")[2]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the server closed the connection ({exc})"))
