"""Cancels a request that takes longer than REQUEST_TIMEOUT or INGEST_TIMEOUT, and answers it with a 503."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.bodies import SAFE_METHODS
from app.api.limits import Limits
from app.api.streaming import is_endless, is_streamed
from app.utils.deadline import REQUEST_DEADLINE
from app.utils.errors import DeadlineExceeded

LONG_PATHS = (
    "/data/insert",
    "/v1/embeddings",
    "/collection",
    "/data/documents/delete",
    "/data/documents/metadata",
    "/data/sync",
    "/mcp",
)
"""Paths of calls that embed many texts, that wait until Milvus has created or dropped a collection, or that change many
documents. The tools of /mcp also have deadlines of their own: ``app.api.integrations.mcp_server``."""
STORES = "/v1/vector_stores"


class Deadline:
    """ASGI middleware. Needs ``limits`` in the lifespan's state. Requests with an endless body have no deadline.

    A cancelled write is like a crash: recovery undoes it. If the response has begun, the connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_endless(scope):
            await self._app(scope, receive, send)
            return
        limits: Limits = scope["state"]["limits"]
        seconds = limits.ingest_seconds if _is_long(scope) or is_export(scope) else limits.request_seconds
        if not is_export(scope):  # Its deadline is renewed.
            REQUEST_DEADLINE.set(asyncio.get_running_loop().time() + seconds)
        try:
            async with asyncio.timeout(seconds) as deadline:
                await self._app(scope, receive, _renewing(send, deadline, seconds) if is_export(scope) else send)
        except TimeoutError as exc:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(f"The request was cancelled after {seconds:g} seconds.", retry_after=5) from exc


def is_export(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] == "GET" and path.startswith("/collection/") and path.endswith("/export")


def _renewing(send: Send, deadline: asyncio.Timeout, seconds: float) -> Send:
    """An export takes as long as it takes. Each of its pieces has to be made, and taken by the client, in this time."""

    async def renewed(message: Message) -> None:
        await send(message)
        deadline.reschedule(asyncio.get_running_loop().time() + seconds)

    return renewed


def _is_long(scope: Scope) -> bool:
    if is_streamed(scope):
        return True
    method: str = scope["method"]
    path: str = scope["path"]
    if method in SAFE_METHODS:
        return False
    if path.startswith(STORES):
        return path == STORES or method == "DELETE"
    return path.startswith(LONG_PATHS) or method == "PUT"
