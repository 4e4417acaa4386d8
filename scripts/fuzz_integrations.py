"""An OpenAPI document of the integrations' routes, for ``scripts.fuzz``. The server's own document leaves them out:
the other APIs have documents of their own, and these routes declare no answers."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.api.integrations.mcp_tools import TOOLS
from app.main import INTEGRATIONS

RPC = {
    "type": "object",
    "required": ["jsonrpc", "method"],
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["integer", "string"]},
        "method": {"enum": ["initialize", "ping", "tools/list", "tools/call", "notifications/initialized"]},
        "params": {
            "type": "object",
            "properties": {"name": {"enum": list(TOOLS)}, "arguments": {"type": "object"}},
        },
    },
}
ANY_BODY = {"content": {"application/json": {"schema": {"anyOf": [RPC, {}]}}}}
"""Of routes that read their body themselves."""


def document() -> dict[str, Any]:
    listed = FastAPI(title="integrations")
    for module in INTEGRATIONS:
        for route in module.router.routes:
            assert isinstance(route, APIRoute)
            route.include_in_schema = True
        module.router.include_in_schema = True
        listed.include_router(module.router)
    found = listed.openapi()
    for path, methods in found["paths"].items():
        if "{id}" in path:  # FastAPI names only what the function takes.
            methods["post"]["parameters"] = [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
            ]
        if post := methods.get("post"):
            post.setdefault("requestBody", ANY_BODY)
    return found
