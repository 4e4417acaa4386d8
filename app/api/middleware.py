"""What every request gets: an id, a line in the log, its place in metrics and traces, a 500 for what nobody caught."""

import logging
import re
import sys
import time
from typing import Any
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import OPENAI_PATHS, internal_error, log_and_render, openai_errors
from app.utils import metrics, tracing
from app.utils.errors import AppError, StartupError
from app.utils.lifecycle import process
from app.utils.logging import request_id
from app.utils.logging import summarize as without_words

log = logging.getLogger(__name__)
access = logging.getLogger("app.access")

STARTUP_ERROR = f"{StartupError.__module__}.{StartupError.__qualname__}: "
SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_CLOSED_REQUEST = 499
"""Stands in log and metrics for a client that went away before an answer began."""
QUIET = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
"""Routes whose lines are for DEBUG: they are asked every few seconds."""


class RequestContext:
    """Plain ASGI: no second task a request, as BaseHTTPMiddleware would make."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _shorten_startup_error(send))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answer = ResponseWatcher(_request_id(scope), send)
        token = request_id.set(answer.id)
        openai = openai_errors.set(scope["path"].removeprefix(scope.get("root_path", "")).startswith(OPENAI_PATHS))
        metrics.IN_FLIGHT.inc()
        try:
            if tracing.running():
                with tracing.server_span(scope["method"], scope["headers"]) as span:
                    await self._answer(scope, receive, answer)
                    _name(span, scope, answer.status)
            else:
                await self._answer(scope, receive, answer)
        finally:
            metrics.IN_FLIGHT.dec()
            _record(scope, answer.status, time.perf_counter() - began)
            openai_errors.reset(openai)
            request_id.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, answer: "ResponseWatcher") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except AppError as exc:
            if answer.begun:
                raise
            await log_and_render(exc)(scope, receive, answer.send)
        except Exception:
            log.exception("%s %s failed", scope["method"], _route(scope))
            if answer.begun:
                raise
            await internal_error()(scope, receive, answer.send)


class ResponseWatcher:
    """Passes an answer on, with the request's id in it."""

    def __init__(self, name: str, send: Send) -> None:
        self.id = name
        self.status = CLIENT_CLOSED_REQUEST
        self.begun = False
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.id.encode())]
            if process.draining:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


def _request_id(scope: Scope) -> str:
    """The caller's, if it is one that may stand in a log line, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and SANE_ID.fullmatch(value):
            return str(value.decode())
    return uuid4().hex


def _route(scope: Scope) -> str:
    """The template of the path, such as /data/document/{doc_id}: what stands in the path itself is the caller's."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


def _record(scope: Scope, status: int, seconds: float) -> None:
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    route = _route(scope)
    metrics.REQUESTS.labels(method, route, str(status)).inc()
    metrics.REQUEST_SECONDS.labels(route).observe(seconds)
    level = logging.DEBUG if route in QUIET and status < 400 else logging.INFO
    if access.isEnabledFor(level):
        fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 3)}
        access.log(level, "%s %s %d %.1f ms", method, route, status, seconds * 1000, extra={"fields": fields})


def _name(span: Any, scope: Scope, status: int) -> None:
    route = _route(scope)
    span.update_name(f"{scope['method']} {route}")
    span.set_attribute("http.request.method", scope["method"])
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("request_id", request_id.get())


def _shorten_startup_error(send: Send) -> Send:
    """Leaves of a traceback that ends in a StartupError its one line, which says what to do; of another the places.

    A driver's own words may quote a setting, a password included.
    """

    async def send_shortened(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            _, found, line = message.get("message", "").rpartition(STARTUP_ERROR)
            exc = sys.exc_info()[1]  # The framework sends this while it handles it.
            message = {**message, "message": line.strip() if found or exc is None else without_words(exc)}
        await send(message)

    return send_shortened
