"""Bounds what a connection may hold: time and bytes for a request's head, and the number of connections.

uvicorn has no limit for any of them. Bodies are bounded in ``app.api.bodies``.
"""

import asyncio
from http import HTTPStatus
from multiprocessing.connection import Connection
from typing import Any
from uuid import uuid4

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.utils.errors import Overloaded

MALFORMED = (
    "The request's head is no HTTP/1.1. Letters outside ASCII in the path or the query must be UTF-8, percent-encoded: "
    "한글 is %ED%95%9C%EA%B8%80."
)


class GuardedConfig(uvicorn.Config):
    """``connections``: most of one process. ``header_timeout_seconds``, ``head_bytes``: for a request's head.
    ``drain_seconds``:
    how long to serve on after SIGTERM. ``stopping``: at its end as soon as all processes are to stop; None
    where there is one process."""

    connections = 2_000
    header_timeout_seconds = 10.0
    head_bytes = 32_768
    drain_seconds = 0.0
    stopping: "Connection[Any, Any] | None" = None


_waiting: dict["GuardedProtocol", None] = {}
"""This process's connections that are at no request: idle ones, and those whose next head is not complete. In the order
in which they began to wait."""


class GuardedProtocol(HttpToolsProtocol):
    """Where there are too many connections, the one that waits longest gives way to a new one.

    So idle and slow connections cannot lock anybody out. If all are at work, the new one gets a 503.
    """

    config: GuardedConfig

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = 0
        self._clock: asyncio.TimerHandle | None = None
        self._await_head()
        if len(self.connections) > self.config.connections:
            oldest = next(iter(_waiting))
            if oldest is self:
                self._end(HTTPStatus.SERVICE_UNAVAILABLE, Overloaded.code, "Too many connections.")
            else:
                oldest._evict()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self in _waiting and self._clock is None:
            self._start_clock()
        self._head += len(data)  # Taken back by whatever turns out to be no head.
        super().data_received(data)
        if self._head > self.config.head_bytes and not self.transport.is_closing():
            detail = f"The head is longer than {self.config.head_bytes:,} bytes."
            self._end(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", detail)

    def on_headers_complete(self) -> None:
        self._head = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        at_next = bool(self.pipeline)
        super().on_response_complete()
        if not at_next and not self.transport.is_closing():
            _waiting[self] = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words say nothing
        self._end(HTTPStatus.BAD_REQUEST, "malformed_request", MALFORMED)

    def _await_head(self) -> None:
        _waiting[self] = None
        self._start_clock()

    def _start_clock(self) -> None:
        self._clock = self.loop.call_later(self.config.header_timeout_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        _waiting.pop(self, None)
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_slow(self) -> None:
        if self._head:
            self._end(HTTPStatus.REQUEST_TIMEOUT, "head_too_slow", "The head did not arrive in time.")
        else:
            self._evict()

    def _evict(self) -> None:
        _waiting.pop(self, None)
        self.transport.close()

    def _end(self, status: HTTPStatus, code: str, detail: str) -> None:
        """Answers, unless an answer is under way, and closes."""
        self._stop_waiting()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        request_id = uuid4().hex
        body = orjson.dumps(
            {
                "type": f"urn:problem:{code}",
                "title": status.phrase,
                "status": status.value,
                "detail": detail,
                "code": code,
                "request_id": request_id,
            }
        )
        retry = b"retry-after: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else b""
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\nx-request-id: %s\r\n"
            b"%sconnection: close\r\n\r\n%s"
            % (status.value, status.phrase.encode(), len(body), request_id.encode(), retry, body)
        )
        self.transport.close()


async def await_first_requests(seconds: float) -> None:
    """Until each connection's first request has begun, so that it is not cut off in the middle of saying it."""
    newcomers = [one for one in _waiting if one.cycle is None or one._head]
    end = asyncio.get_running_loop().time() + seconds
    while True:
        # Once at least: what has arrived on the others is read meanwhile.
        await asyncio.sleep(0.01)
        newcomers = [one for one in newcomers if one in _waiting]
        if not newcomers or asyncio.get_running_loop().time() > end:
            return
