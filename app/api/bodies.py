"""Reads each body before the application sees the request: bounded in bytes, in time, and in all that is held at once.

Compressed bodies are refused. So what a body takes in memory is what was sent, and a few bytes cannot become many.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import render
from app.api.limits import Limits
from app.utils.errors import AppError, BodyTooLarge, BodyTooSlow, EncodingUnsupported, Overloaded

LEAST_BYTES_PER_SECOND = 64 << 10
"""A body may take BODY_TIMEOUT, and a second more for so many bytes."""
SMALL_BYTES = 64 << 10
SMALL_SHARE = 8
"""A body up to so long, or so small a part of MAX_BODY_BYTES, is held in any case: else a few clients with large bodies
that hardly move would keep all questions out. What small ones take together is bounded by MAX_CONNECTIONS."""
LINGER_SECONDS = 1.0
LINGER_BYTES = 1 << 20
"""After a refusal so much more is read and thrown away: a connection closed over unread bytes is reset, and its client
may never see the answer."""


class BodyHeaders(NamedTuple):
    """What a request's head says about its body."""

    length: int
    chunked: bool
    encoded: bool
    expects: bool
    """The client waits for a word before it sends."""


class BodyGuard:
    """Plain ASGI. Needs ``limits`` in the lifespan's state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = announced(scope["headers"])
        if not head.length and not head.chunked:
            await self._app(scope, receive, send)
            return
        limits: Limits = scope["state"]["limits"]
        try:
            body = await self._read(head, limits, receive)
        except AppError as exc:
            await refuse(exc, scope, receive, send)
            return
        if body is None:
            return
        try:
            whole: Message = {"type": "http.request", "body": body, "more_body": False}
            await self._app(scope, replayed(whole, receive), send)
        finally:
            self._held -= _counted(len(body), limits)

    async def _read(self, head: BodyHeaders, limits: Limits, receive: Receive) -> bytes | None:
        """The body, counted as held; None when the client went away. Raises what is to be answered instead."""
        if head.encoded:
            raise EncodingUnsupported("Send the body as it is: Content-Encoding is not supported.")
        if head.length > limits.body_bytes:
            raise _too_large(limits)
        parts: list[bytes] = []
        held = 0
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
                    self._held -= _counted(held, limits)
                    held += len(part)
                    counted = _counted(held, limits)
                    self._held += counted
                    if held > limits.body_bytes:
                        raise _too_large(limits)
                    if counted and self._held > limits.bodies_bytes:
                        raise Overloaded("Too many large bodies at a time.", retry_after=1)
                    complete = not message.get("more_body", False)
                    if not complete:
                        deadline.reschedule(start + limits.body_seconds + held / LEAST_BYTES_PER_SECOND)
        except TimeoutError as exc:
            raise BodyTooSlow("The body did not arrive in time.") from exc
        finally:
            if not complete:
                self._held -= _counted(held, limits)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def announced(headers: Iterable[tuple[bytes, bytes]]) -> BodyHeaders:
    length = 0
    chunked = encoded = expects = False
    for name, value in headers:
        if name == b"content-length":
            with suppress(ValueError):
                length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"content-encoding":
            encoded = value.strip().lower() not in (b"", b"identity")
        elif name == b"expect":
            expects = True
    return BodyHeaders(length, chunked, encoded, expects)


def _counted(held: int, limits: Limits) -> int:
    return held if held > min(SMALL_BYTES, limits.body_bytes // SMALL_SHARE) else 0


def _too_large(limits: Limits) -> BodyTooLarge:
    return BodyTooLarge(f"The body is longer than {limits.body_bytes:,} bytes.")


def replayed(message: Message, receive: Receive) -> Receive:
    """Gives the message once; then what the connection says."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return message

    return replay


async def refuse(error: AppError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers. Ends the connection where the body is long or late: what is left of it is not worth reading."""
    head = announced(scope["headers"])
    response = render(error)
    if isinstance(error, EncodingUnsupported):
        response.headers["Accept-Encoding"] = "identity"  # RFC 9110, 12.5.3
    small = head.length <= SMALL_BYTES and not head.chunked and not head.expects
    if small and (not head.length or await _drain(receive)):
        await response(scope, receive, send)
        return
    response.headers["Connection"] = "close"
    answered = False

    async def send_and_linger(message: Message) -> None:
        nonlocal answered
        if message["type"] == "http.response.body" and not answered:
            answered = True
            await send({**message, "more_body": True})
            if not head.expects:
                await _drain(receive)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    await response(scope, receive, send_and_linger)


async def _drain(receive: Receive) -> bool:
    """Whether the end was reached."""
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
