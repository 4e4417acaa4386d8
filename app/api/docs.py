"""/docs (Swagger UI) and /redoc (ReDoc), without a request to another host.

Their scripts come from the PyPI package fastapi-offline, which carries both distributions and is released anew as they
are: an update is a changed pin, and nothing minified lies in this repository. Its own pages are not used, because
their inline scripts would need a weaker Content-Security-Policy. All addresses are relative, so that the pages work
under a proxy's path too.
"""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

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


async def _docs() -> FileResponse:
    return FileResponse(STATIC / "docs.html", headers=HEADERS)


async def _redoc() -> FileResponse:
    return FileResponse(STATIC / "redoc.html", headers=HEADERS)


def install(app: FastAPI) -> None:
    """Adds both pages and their files; ``app`` is made with ``docs_url=None, redoc_url=None``."""
    files = StaticFiles(directory=STATIC, packages=[("fastapi_offline", "static")])
    app.mount("/docs/assets", files, name="docs-assets")
    app.add_api_route("/docs", _docs, include_in_schema=False)
    app.add_api_route("/redoc", _redoc, include_in_schema=False)
