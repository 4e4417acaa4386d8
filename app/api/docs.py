"""/docs (Swagger UI) and /redoc (ReDoc), without a request to another host.

Their scripts come from the PyPI package fastapi-offline, which carries both distributions and is released anew as they
are: an update is a changed pin, and nothing minified lies in this repository. Its own pages are not used, because
their inline scripts would need a weaker Content-Security-Policy. All addresses are relative, so that the pages work
under a proxy's path too.
"""

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.api.auth import caller_of
from app.api.deps import OPEN

STATIC = Path(__file__).resolve().parents[1] / "static"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Both set styles from their scripts.
        "img-src 'self' data:",
        "connect-src 'self'",
        "worker-src blob:",  # ReDoc searches in one.
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


async def _docs(request: Request) -> FileResponse:
    await _check(request)
    return FileResponse(STATIC / "docs.html", headers=HEADERS)


async def _redoc(request: Request) -> FileResponse:
    await _check(request)
    return FileResponse(STATIC / "redoc.html", headers=HEADERS)


async def _document(request: Request) -> JSONResponse:
    """As FastAPI does it: behind a proxy that takes a part of the path away, the document says so."""
    await _check(request)
    document = request.app.openapi()
    if root_path := request.scope.get("root_path", "").rstrip("/"):
        document = {**document, "servers": [{"url": root_path}]}
    return JSONResponse(document)


async def _check(request: Request) -> None:
    """Raises HTTPException and KeyMissing, as DOCS has it."""
    if request.state.docs == "off":
        raise HTTPException(404)
    if request.state.docs == "key":
        (await caller_of(request)).need("read")


class _Files(StaticFiles):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["state"]["docs"] == "off":
            raise HTTPException(404)
        await super().__call__(scope, receive, send)


def install(app: FastAPI) -> None:
    """Adds both pages, their files and /openapi.json, all of which FastAPI would add without asking for a key."""
    files = _Files(directory=STATIC, packages=[("fastapi_offline", "static")])
    app.mount("/docs/assets", files, name="docs-assets")
    app.add_api_route("/openapi.json", _document, include_in_schema=False, dependencies=[OPEN])
    app.add_api_route("/docs", _docs, include_in_schema=False, dependencies=[OPEN])
    app.add_api_route("/redoc", _redoc, include_in_schema=False, dependencies=[OPEN])
