"""Gives each request an id and turns what nobody caught into a 500 without a word of it."""

import logging
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import internal_error, render
from app.utils.errors import AppError, StartupError
from app.utils.logging import request_id

log = logging.getLogger(__name__)

STARTUP_ERROR = f"{StartupError.__module__}.{StartupError.__qualname__}: "


class RequestContext:
    """Plain ASGI: no second task a request, as BaseHTTPMiddleware would make."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _brief(send))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = uuid4().hex
        token = request_id.set(name)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except AppError as exc:
            if started:
                raise
            if exc.status >= 500:
                log.warning("%s: %s", exc.code, exc.detail)
            await render(exc)(scope, receive, send_with_id)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await internal_error()(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


def _brief(send: Send) -> Send:
    """Leaves of a traceback that ends in a StartupError its one line, which says what to do."""

    async def send_briefly(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            text = message.get("message", "")
            _, found, line = text.rpartition(STARTUP_ERROR)
            message = {**message, "message": line.strip() if found else text}
        await send(message)

    return send_briefly
