"""/docs (Swagger UI) and /redoc (ReDoc), without a request to another host.

Their scripts are in the PyPI package fastapi-offline, which has a release for each release of theirs. An update is a
changed pin, and none of their minified code is in this repository. The package's own pages are not used: their inline
scripts would need a weaker Content-Security-Policy. All URLs are relative, so the pages also work under a proxy's path
prefix.
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
FOLDER = STATIC / "docs"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Both set styles by script.
        "img-src 'self' data:",
        "connect-src 'self'",
        "worker-src blob:",  # ReDoc's search runs in a worker.
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}


async def _docs(request: Request) -> FileResponse:
    await _check(request)
    return FileResponse(FOLDER / "docs.html", headers=HEADERS)


async def _redoc(request: Request) -> FileResponse:
    await _check(request)
    return FileResponse(FOLDER / "redoc.html", headers=HEADERS)


async def _document(request: Request) -> JSONResponse:
    """As in FastAPI: behind a proxy that removes a path prefix, ``servers`` has the prefix."""
    await _check(request)
    document = request.app.openapi()
    if root_path := request.scope.get("root_path", "").rstrip("/"):
        document = {**document, "servers": [{"url": root_path}]}
    return JSONResponse(document)


async def _check(request: Request) -> None:
    """Raises HTTPException or an error of the API key, as the setting DOCS says."""
    if request.state.docs == "off":
        raise HTTPException(404)
    if request.state.docs == "key":
        (await caller_of(request)).require_scope("read")


class _Files(StaticFiles):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["state"]["docs"] == "off":
            raise HTTPException(404)
        await super().__call__(scope, receive, send)


def install(app: FastAPI) -> None:
    """Adds both pages, their files and /openapi.json. FastAPI's own routes for these never require an API key."""
    files = _Files(directory=FOLDER, packages=[("fastapi_offline", "static")])
    app.mount("/docs/assets", files, name="docs-assets")
    app.add_api_route("/openapi.json", _document, include_in_schema=False, dependencies=[OPEN])
    app.add_api_route("/docs", _docs, include_in_schema=False, dependencies=[OPEN])
    app.add_api_route("/redoc", _redoc, include_in_schema=False, dependencies=[OPEN])
