"""Cancels a request that takes longer than REQUEST_TIMEOUT or INGEST_TIMEOUT, and answers it with a 503."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.bodies import SAFE_METHODS
from app.api.limits import Limits
from app.api.streaming import is_endless, is_streamed
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
        seconds = limits.ingest_seconds if _is_long(scope) else limits.request_seconds
        try:
            async with asyncio.timeout(seconds) as deadline:
                await self._app(scope, receive, send)
        except TimeoutError as exc:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(f"The request was cancelled after {seconds:g} seconds.", retry_after=5) from exc


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
