"""Gives every request an id, a log line, metrics and a trace, and a 500 for an unexpected exception."""

import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.error_forms import error_form, form_of
from app.api.errors import internal_error, log_and_render
from app.utils import metrics, tracing
from app.utils.errors import AppError, StartupError
from app.utils.lifecycle import process
from app.utils.logging import request_id, summarize
from app.utils.recent_errors import RecentError, RecentErrors, answered_error

log = logging.getLogger(__name__)
access = logging.getLogger("app.access")

STARTUP_ERROR = f"{StartupError.__module__}.{StartupError.__qualname__}: "
VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_CLOSED_REQUEST = 499
"""As in nginx: for the log and metrics, if the client disconnects before the response begins."""
PROBES = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
"""Routes that are called every few seconds. Their log lines have the level DEBUG."""


class RequestContext:
    """ASGI middleware. BaseHTTPMiddleware would start a second task for each request."""

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
        response = ResponseWatcher(_request_id(scope), send)
        token = request_id.set(response.id)
        answered = answered_error.set(None)
        form = error_form.set(form_of(scope["path"].removeprefix(scope.get("root_path", ""))))
        metrics.IN_FLIGHT.inc()
        try:
            if tracing.running():
                with tracing.server_span(scope["method"], scope["headers"]) as span:
                    await self._respond(scope, receive, response)
                    _describe_span(span, scope, response.status)
            else:
                await self._respond(scope, receive, response)
        finally:
            metrics.IN_FLIGHT.dec()
            _record(scope, response.status, time.perf_counter() - began)
            _remember_error(scope, response)
            answered_error.reset(answered)
            error_form.reset(form)
            request_id.reset(token)

    async def _respond(self, scope: Scope, receive: Receive, response: "ResponseWatcher") -> None:
        try:
            await self._app(scope, receive, response.send)
        except AppError as exc:
            if response.begun:
                raise
            await log_and_render(exc)(scope, receive, response.send)
        except Exception:
            log.exception("%s %s failed", scope["method"], _route(scope))
            if response.begun:
                raise
            await internal_error()(scope, receive, response.send)


class ResponseWatcher:
    """Sends a response with the request id in a header, and remembers its status."""

    def __init__(self, request_id: str, send: Send) -> None:
        self.id = request_id
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
    """The client's X-Request-Id if it is safe in a log line, else a new id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and VALID_REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return uuid4().hex


def _route(scope: Scope) -> str:
    """The path template, such as /data/document/{doc_id}. The path itself contains values of the client."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


def _record(scope: Scope, status: int, seconds: float) -> None:
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    route = _route(scope)
    metrics.requests(method, route, status).inc()
    metrics.request_seconds(route).observe(seconds)
    level = logging.DEBUG if route in PROBES and status < 400 else logging.INFO
    if access.isEnabledFor(level):
        fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 3)}
        access.log(level, "%s %s %d %.1f ms", method, route, status, seconds * 1000, extra={"fields": fields})


def _remember_error(scope: Scope, response: ResponseWatcher) -> None:
    """Keeps an error for operators. One after the beginning of the response has another status than the response."""
    status, code = answered_error.get() or (response.status, None)
    route = _route(scope)
    if (code is None and status < 500) or route in PROBES:
        return
    recent: RecentErrors = scope["state"]["recent_errors"]
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    recent.add(RecentError(response.id, datetime.now(UTC), method, route, status, code))


def _describe_span(span: Any, scope: Scope, status: int) -> None:
    route = _route(scope)
    span.update_name(f"{scope['method']} {route}")
    span.set_attribute("http.request.method", scope["method"])
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("request_id", request_id.get())


def _shorten_startup_error(send: Send) -> Send:
    """Reduces the traceback of a StartupError to its message, and of any other exception to its code locations.

    The message of a driver can contain a setting, even a password.
    """

    async def send_shortened(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            _, found, line = message.get("message", "").rpartition(STARTUP_ERROR)
            exc = sys.exc_info()[1]  # Starlette sends this while it handles the exception.
            message = {**message, "message": line.strip() if found or exc is None else summarize(exc)}
        await send(message)

    return send_shortened
