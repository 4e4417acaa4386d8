"""Reads each request body before the request is routed, within limits for its size, its time and all bodies together.

Compressed bodies are rejected. So a body takes as much memory as was sent, and a few bytes cannot become many. Bodies
of routes that declare ``streamed_body`` are passed on in pieces instead, within limits for size and time; some of them
may be compressed.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import render
from app.api.limits import Limits
from app.api.streaming import SCOPE_KEY, StreamedBody, StreamedRoutes
from app.utils.errors import AppError, BodyTooLarge, BodyTooSlow, EncodingUnsupported, Overloaded

MIN_BYTES_PER_SECOND = 64 << 10
"""A body may take BODY_TIMEOUT, and one second more for each so many bytes."""
SMALL_BYTES = 64 << 10
SMALL_SHARE = 8
"""A body of at most SMALL_BYTES, and at most this part of MAX_BODY_BYTES, is always buffered. Otherwise a few clients
with large, slow bodies would keep all searches out. MAX_CONNECTIONS limits what all small bodies take together."""
GZIP = b"gzip"
SAFE_METHODS = frozenset({"GET", "HEAD"})
BUFFERED_BODY = "buffered_body"
"""The key of the ASGI scope under which a buffered body stands."""
LINGER_SECONDS = 1.0
LINGER_BYTES = 1 << 20
"""After a rejection, so much of the body is still read and dropped. If a server closes a connection that has unread
bytes, the connection is reset, and the client may not see the response."""


class BodyHeaders(NamedTuple):
    """What the headers of a request say about its body."""

    length: int
    chunked: bool
    encoding: bytes
    """Content-Encoding; empty where the body is as it is."""
    expects: bool
    """The client waits for ``100 Continue`` before it sends the body."""


class BodyGuard:
    """ASGI middleware. Needs ``limits`` in the lifespan's state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._buffered = 0
        self._streamed_routes: StreamedRoutes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = parse_body_headers(scope["headers"])
        empty = not headers.length and not headers.chunked
        if empty and scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        if self._streamed_routes is None:
            self._streamed_routes = StreamedRoutes(scope["app"])
        streamed = self._streamed_routes.find(scope)
        if empty:
            if streamed is not None:
                scope[SCOPE_KEY] = streamed
            await self._app(scope, receive, send)
            return
        limits: Limits = scope["state"]["limits"]
        max_bytes = _max_bytes(streamed, limits)
        try:
            _check_headers(headers, max_bytes, streamed)
            if streamed is None:
                body = await self._buffer(limits, receive)
        except AppError as exc:
            await reject(exc, scope, receive, send)
            return
        if streamed is not None:
            await self._stream(streamed, headers, max_bytes, scope, receive, send)
        elif body is not None:
            try:
                scope[BUFFERED_BODY] = body
                message: Message = {"type": "http.request", "body": body, "more_body": False}
                await self._app(scope, _receive_once(message, receive), send)
            finally:
                self._buffered -= _billable(len(body), limits)

    async def _buffer(self, limits: Limits, receive: Receive) -> bytes | None:
        """The body, counted in ``_buffered``; None if the client disconnected. Raises the error to be sent instead."""
        parts: list[bytes] = []
        size = 0
        complete = False
        try:
            async with asyncio.timeout(limits.body_seconds) as deadline:
                start = asyncio.get_running_loop().time()
                while not complete:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    parts.append(part)
                    self._buffered -= _billable(size, limits)
                    size += len(part)
                    billable = _billable(size, limits)
                    self._buffered += billable
                    if size > limits.body_bytes:
                        raise _too_large(limits.body_bytes)
                    if billable and self._buffered > limits.buffered_bytes:
                        raise Overloaded("Too many large bodies at the same time.", retry_after=1)
                    complete = not message.get("more_body", False)
                    if not complete:
                        deadline.reschedule(start + _allowed_seconds(limits, size))
        except TimeoutError as exc:
            raise _too_slow() from exc
        finally:
            if not complete:
                self._buffered -= _billable(size, limits)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _stream(
        self,
        streamed: StreamedBody,
        headers: BodyHeaders,
        max_bytes: float,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        scope[SCOPE_KEY] = streamed
        body = _BodyStream(headers, max_bytes, streamed.endless, scope["state"]["limits"], receive, send)
        with suppress(ClientDisconnect):
            await self._app(scope, body.receive, body.send)


class _BodyStream:
    """Passes a body on piece by piece and raises BodyTooLarge or BodyTooSlow from ``receive``.

    Only time in which the application waits for the client counts, and of an ``endless`` body only that for one piece.
    A response that begins before the end of the body closes the connection.
    """

    def __init__(
        self, headers: BodyHeaders, max_bytes: float, endless: bool, limits: Limits, receive: Receive, send: Send
    ) -> None:
        self._max_bytes = max_bytes
        self._endless = endless
        self._limits = limits
        self._expects = headers.expects
        self._receive = receive
        self._send = send
        self._size = 0
        self._waited_seconds = 0.0
        self._complete = False
        self._response_begun = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            async with asyncio.timeout(self._seconds_left()):
                message = await self._receive()
        except TimeoutError as exc:
            raise _too_slow() from exc
        finally:
            self._waited_seconds += loop.time() - start
        self._expects = False  # The server sends 100 Continue when the application first waits for the body.
        self._size += len(message.get("body", b""))
        if self._size > self._max_bytes:
            raise _too_large(self._max_bytes)
        self._complete = not message.get("more_body", False)
        return message

    def _seconds_left(self) -> float:
        if self._endless:
            return self._limits.body_seconds
        return _allowed_seconds(self._limits, self._size) - self._waited_seconds

    async def send(self, message: Message) -> None:
        if not self._response_begun and not self._complete:
            self._send = _close_after_response(self._send, self._receive, lingers=self._lingers)
        self._response_begun = True
        if not self._endless:
            await self._send(message)
            return
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                await self._send(message)
        except TimeoutError as exc:
            raise ClientDisconnect from exc

    def _lingers(self) -> bool:
        return not self._expects and not self._complete


def parse_body_headers(headers: Iterable[tuple[bytes, bytes]]) -> BodyHeaders:
    length = 0
    chunked = expects = False
    encoding = b""
    for name, value in headers:
        if name == b"content-length":
            with suppress(ValueError):
                length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"content-encoding":
            encoding = value.strip().lower().removeprefix(b"identity")
        elif name == b"expect":
            expects = True
    return BodyHeaders(length, chunked, encoding, expects)


def _max_bytes(streamed: StreamedBody | None, limits: Limits) -> float:
    if streamed and streamed.endless:
        return math.inf
    return limits.body_bytes if streamed is None or streamed.max_bytes is None else streamed.max_bytes


def _check_headers(headers: BodyHeaders, max_bytes: float, streamed: StreamedBody | None) -> None:
    """Raises EncodingUnsupported and BodyTooLarge."""
    if headers.encoding and not (streamed and streamed.endless and headers.encoding == GZIP):
        raise EncodingUnsupported("Send the body as it is: Content-Encoding is not supported.")
    if headers.length > max_bytes:
        raise _too_large(max_bytes)


def _billable(size: int, limits: Limits) -> int:
    """How many bytes of a buffered body count towards MAX_BUFFERED_BYTES."""
    return size if size > min(SMALL_BYTES, limits.body_bytes // SMALL_SHARE) else 0


def _allowed_seconds(limits: Limits, size: int) -> float:
    return limits.body_seconds + size / MIN_BYTES_PER_SECOND


def _too_large(max_bytes: float) -> BodyTooLarge:
    return BodyTooLarge(f"The body is longer than {max_bytes:,} bytes.")


def _too_slow() -> BodyTooSlow:
    return BodyTooSlow("The body did not arrive in time.")


def _receive_once(message: Message, receive: Receive) -> Receive:
    """Returns ``message`` once, then what ``receive`` returns."""
    received = False

    async def receive_message() -> Message:
        nonlocal received
        if received:
            return await receive()
        received = True
        return message

    return receive_message


async def reject(error: AppError, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends an error. Closes the connection if the body is long or slow, since the rest of it is not worth reading."""
    headers = parse_body_headers(scope["headers"])
    response = render(error)
    if isinstance(error, EncodingUnsupported):
        response.headers["Accept-Encoding"] = "identity"  # RFC 9110, 12.5.3
    small = headers.length <= SMALL_BYTES and not headers.chunked and not headers.expects
    if not small or (headers.length and not await _drain(receive)):
        send = _close_after_response(send, receive, lingers=lambda: not headers.expects)
    await response(scope, receive, send)


def _close_after_response(send: Send, receive: Receive, *, lingers: Callable[[], bool]) -> Send:
    """Closes the connection with the response; before that, reads a part of the remaining body if ``lingers()``."""

    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            await send({**message, "more_body": True})
            if lingers():
                await _drain(receive)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    return send_and_close


async def _drain(receive: Receive) -> bool:
    """Whether the end of the body was reached."""
    drained = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while drained < LINGER_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                if not message.get("more_body", False):
                    return True
                drained += len(message.get("body", b""))
    return False
