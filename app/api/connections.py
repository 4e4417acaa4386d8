"""Limits the time and the bytes of a request's head (request line and headers), and the number of connections.

uvicorn has no such limits. ``app.api.bodies`` limits bodies.
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
    "The head of the request is not valid HTTP/1.1. Characters outside ASCII in the path or the query must be UTF-8, "
    "percent-encoded: "
    "한글 is %ED%95%9C%EA%B8%80."
)


class GuardedConfig(uvicorn.Config):
    """uvicorn's configuration with the limits of ``GuardedProtocol`` and the waits of ``app.serve.DrainingServer``."""

    max_connections = 2_000
    """For each process."""
    header_timeout_seconds = 10.0
    head_bytes = 32_768
    drain_seconds = 0.0
    """How long to continue to serve after SIGTERM."""
    stopping: "Connection[Any, Any] | None" = None
    """A pipe that ends when all worker processes are to stop; None where there is only one process."""


_waiting: dict["GuardedProtocol", None] = {}
"""This process's connections without a request in progress, in the order in which they began to wait: idle ones, and
those whose next head is not complete."""


class GuardedProtocol(HttpToolsProtocol):
    """If there are too many connections, a new one replaces the one that has waited longest for a request.

    So idle and slow clients cannot keep others out. If all connections have a request in progress, the new one gets a
    503.
    """

    config: GuardedConfig

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None
        self._await_head()
        if len(self.connections) > self.config.max_connections:
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
        if self in _waiting and self._timer is None:
            self._start_timer()
        self._head += len(data)  # on_headers_complete and on_body set it back to 0.
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
        has_next_request = bool(self.pipeline)
        super().on_response_complete()
        if not has_next_request and not self.transport.is_closing():
            _waiting[self] = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's message has no details
        self._end(HTTPStatus.BAD_REQUEST, "malformed_request", MALFORMED)

    def _await_head(self) -> None:
        _waiting[self] = None
        self._start_timer()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.config.header_timeout_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        _waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self._head:
            self._end(HTTPStatus.REQUEST_TIMEOUT, "head_too_slow", "The head did not arrive in time.")
        else:
            self._evict()

    def _evict(self) -> None:
        _waiting.pop(self, None)
        self.transport.close()

    def _end(self, status: HTTPStatus, code: str, detail: str) -> None:
        """Sends an error, unless a response is in progress, and closes the connection."""
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
    """Waits until the first request of each connection has begun, so that it is not cut off in its head."""
    newcomers = [one for one in _waiting if one.cycle is None or one._head]
    end = asyncio.get_running_loop().time() + seconds
    while True:
        # At least once, so that data that has already arrived is read.
        await asyncio.sleep(0.01)
        newcomers = [one for one in newcomers if one in _waiting]
        if not newcomers or asyncio.get_running_loop().time() > end:
            return
