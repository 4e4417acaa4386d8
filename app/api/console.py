"""/console: the page for people who run the server. It is made of files of the package and uses the public API alone.

Nothing of it is built: the browser loads the modules in app/static/console as they are. All URLs are relative, so the
page also works under a proxy's path prefix.
"""

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.api.deps import OPEN
from app.api.docs import STATIC

FOLDER = STATIC / "console"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


async def _page(request: Request) -> HTMLResponse:
    """The page. It asks for an API key where the server requires one."""
    _check(request.scope)
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    keys = "none" if request.state.authenticator is None else "required"
    return HTMLResponse(text.replace("{{keys}}", keys), headers=HEADERS)


def _check(scope: Scope) -> None:
    if scope["state"]["console"] == "off":
        raise HTTPException(404)


class _Files(StaticFiles):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check(scope)
        await super().__call__(scope, receive, send)

    def file_response(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Browsers ask again each time, so that no module is used beside one of another version."""
        response = super().file_response(*args, **kwargs)
        response.headers.update({"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})
        return response


def install(app: FastAPI) -> None:
    """Adds the page and its files."""
    app.mount("/console/assets", _Files(directory=FOLDER), name="console-assets")
    app.add_api_route("/console", _page, include_in_schema=False, dependencies=[OPEN])
