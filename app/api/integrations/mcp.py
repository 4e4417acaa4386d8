"""The routes of the Model Context Protocol. The package ``mcp`` answers; the first request imports and starts it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, Request, Response
from starlette.types import Message, Receive, Scope, Send

from app.api.deps import Admission, BotPath

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

router = APIRouter(tags=["integrations"], include_in_schema=False)
SERVER_MODULE = "app.api.integrations.mcp_server"


class McpSessions:
    """Starts the package's session manager in a task of its own, since it must be ended by the task that started it."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._manager: asyncio.Future[StreamableHTTPSessionManager] = asyncio.get_running_loop().create_future()

    async def manager(self) -> "StreamableHTTPSessionManager":
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(self._manager)

    async def _run(self) -> None:
        try:
            # In a thread, because it takes a second.
            module = await asyncio.to_thread(import_module, SERVER_MODULE)
            manager: StreamableHTTPSessionManager = module.new_session_manager()
            async with manager.run():
                self._manager.set_result(manager)
                await asyncio.Event().wait()  # Until it is cancelled.
        except Exception as exc:
            if self._manager.done():
                raise
            self._manager.set_exception(exc)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def mcp_sessions() -> AsyncIterator[McpSessions]:
    sessions = McpSessions()
    try:
        yield sessions
    finally:
        await sessions.close()


class _Answer(Response):
    """Lets the session manager answer a request whose body has been read."""

    def __init__(self, manager: "StreamableHTTPSessionManager", body: bytes) -> None:
        super().__init__()
        self._manager = manager
        self._body: bytes | None = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_body() -> Message:
            if self._body is None:
                return await receive()
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}

        await self._manager.handle_request(scope, receive_body, send)


async def all_bots(request: Request) -> Response:
    """All bots of the account."""
    return await _answer(request)


async def one_bot(request: Request, _: BotPath) -> Response:
    """One bot, by the two tools that connectors of ChatGPT use."""
    return await _answer(request)


async def _answer(request: Request) -> Response:
    sessions: McpSessions = request.state.mcp
    return _Answer(await sessions.manager(), await request.body())


# With a slash at the end as well: a client that is redirected may drop its key.
for path, endpoint in (("/mcp", all_bots), ("/mcp/{chat_bot_id}", one_bot)):
    for ending in ("", "/"):
        router.add_api_route(
            path + ending, endpoint, methods=["POST"], dependencies=[Depends(Admission("read", any_input=True))]
        )
