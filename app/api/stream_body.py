"""The body of a part, in pieces as they arrive."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.api.bodies import GZIP, parse_body_headers
from app.core.transfer.lines import inflated
from app.utils.errors import ServerStopping
from app.utils.lifecycle import process
from app.utils.tasks import cancel_quietly

IDLE_SECONDS = 1.0
"""When the client pauses for so long, what has arrived is written. As often a stop of the server is noticed."""


def body_of(request: Request) -> AsyncIterator[bytes]:
    """The pieces of the body, inflated if it is compressed; an empty one after each pause of IDLE_SECONDS.

    Raises ClientDisconnect, BodyTooSlow, ServerStopping, and the errors of ``inflated``.
    """
    pieces = _received(request)
    return inflated(pieces) if parse_body_headers(request.scope["headers"]).encoding == GZIP else pieces


async def _received(request: Request) -> AsyncIterator[bytes]:
    more = True
    receiving = asyncio.ensure_future(request.receive())
    try:
        while more:
            done, _ = await asyncio.wait({receiving}, timeout=IDLE_SECONDS)
            if not done:
                _check_running()
                yield b""
                continue
            message = receiving.result()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            if content := message.get("body", b""):
                yield content
            if more:
                _check_running()
                receiving = asyncio.ensure_future(request.receive())
    finally:
        cancel_quietly(receiving)


def _check_running() -> None:
    if process.draining:
        raise ServerStopping("The server is stopping. Send the part again: what is stored of it is skipped.")
