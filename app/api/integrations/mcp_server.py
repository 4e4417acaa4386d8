"""The MCP server: which tools a request sees, and how their results and errors are sent.

Imported at the first request of /mcp. Each request is served on its own, so any process can serve it.
"""

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import ValidationError

from app.api.auth import caller_of
from app.api.errors import error_location
from app.api.integrations.mcp_tools import BOT_TOOLS, TOOLS, Call, Tool
from app.api.limits import Limits
from app.utils.deadline import REQUEST_DEADLINE
from app.utils.errors import AppError

log = logging.getLogger(__name__)

NAME, VERSION = "chat-memory", "0.1.0"
INSTRUCTIONS = "Documents of chatbots. list_bots names the bots, search finds passages, fetch reads a document."
Context = Any


def new_session_manager() -> StreamableHTTPSessionManager:
    """Stateless. ``app.api.hosts`` checks Host and Origin, and ``app.api.bodies`` the size of a body."""
    server: Server[Any] = Server(
        NAME, version=VERSION, instructions=INSTRUCTIONS, on_list_tools=_list_tools, on_call_tool=_call_tool
    )
    server.middleware.clear()  # Its spans would have what callers sent. Ours are in app.utils.tracing.
    return StreamableHTTPSessionManager(
        server,
        json_response=True,
        stateless=True,
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=sys.maxsize,
    )


async def _tools(request: Request) -> Mapping[str, Tool]:
    """Those that the request's path has and its key allows."""
    tools = BOT_TOOLS if "chat_bot_id" in request.path_params else TOOLS
    caller = await caller_of(request)
    return {name: tool for name, tool in tools.items() if caller.has_scope(tool.scope)}


async def _list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    tools = await _tools(context.request)
    return types.ListToolsResult(tools=[_described(name, tool) for name, tool in tools.items()])


def _described(name: str, tool: Tool) -> types.Tool:
    return types.Tool(
        name=name,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=types.ToolAnnotations(
            read_only_hint=tool.scope == "read", destructive_hint=False, open_world_hint=False
        ),
    )


async def _call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    try:
        result = await _result(context.request, params)
    except ToolError as exc:
        return types.CallToolResult(content=[types.TextContent(text=str(exc))], is_error=True)
    # Through JSON, as a client that reads only the text gets the same.
    text = orjson.dumps(result, option=orjson.OPT_UTC_Z)
    return types.CallToolResult(content=[types.TextContent(text=text.decode())], structured_content=orjson.loads(text))


async def _result(request: Request, params: types.CallToolRequestParams) -> Mapping[str, Any]:
    """Raises ToolError, whose text is all that a model reads of an error."""
    tool = (await _tools(request)).get(params.name)
    if tool is None:
        raise ToolError(f"There is no tool {params.name[:100]!r} for this API key.")
    try:
        arguments = tool.arguments.model_validate(params.arguments or {})
    except ValidationError as exc:
        error = exc.errors()[0]
        location = error_location(error["loc"], error["msg"])
        raise ToolError(f"{location.loc}: {location.msg}") from None
    limits: Limits = request.state.limits
    seconds = limits.request_seconds if tool.scope == "read" else limits.ingest_seconds
    REQUEST_DEADLINE.set(asyncio.get_running_loop().time() + seconds)
    try:
        async with asyncio.timeout(seconds):
            return await tool.run(Call(request, await caller_of(request)), arguments)
    except TimeoutError as exc:
        raise ToolError(f"The call was cancelled after {seconds:g} seconds.") from exc
    except AppError as exc:
        if exc.status >= 500:
            log.warning("%s: %s", exc.code, exc.detail, exc_info=exc.__cause__)
        raise ToolError(exc.detail) from exc
    except Exception as exc:
        log.exception("the MCP tool %s failed", params.name)
        raise ToolError("The server failed.") from exc
