"""No request takes for ever: what is not done in time is given up with a 503."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.limits import Limits
from app.utils.errors import DeadlineExceeded

READING = frozenset({"GET", "HEAD"})
LONG = ("/data/insert", "/v1/embeddings", "/collection")
"""Paths whose calls embed many texts, or wait for Milvus to make or drop a collection."""


class Deadline:
    """Plain ASGI. Needs ``limits`` in the lifespan's state.

    What is given up is cancelled, which a write takes for a crash: recovery undoes it. If the answer has begun, the
    connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limits: Limits = scope["state"]["limits"]
        seconds = limits.ingest_seconds if _is_long(scope["method"], scope["path"]) else limits.request_seconds
        try:
            async with asyncio.timeout(seconds) as deadline:
                await self._app(scope, receive, send)
        except TimeoutError as exc:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(f"The request was given up after {seconds:g} seconds.", retry_after=5) from exc


def _is_long(method: str, path: str) -> bool:
    return method not in READING and (path.startswith(LONG) or method == "PUT")
