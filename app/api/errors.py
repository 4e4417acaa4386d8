"""Renders every error as application/problem+json (RFC 9457), without internal details."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.api.error_forms import ErrorContent, error_form
from app.utils.errors import AppError, ErrorLocation, InvalidInput, MalformedBody, StorageFull
from app.utils.logging import request_id
from app.utils.recent_errors import answered_error

log = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"
MAX_LOCATIONS = 50
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
COMMON_ERRORS = (422, 429, 503)
"""Errors that every call can return."""
BODY_ERRORS = (408, 413, 415, *COMMON_ERRORS)
"""Errors that every call with a body can return."""
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
NOT_JSON = "send JSON, with the header Content-Type: application/json"
NOT_UTF8 = "is not UTF-8: send JSON encoded as UTF-8, not as EUC-KR or CP949"


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    locations: Sequence[ErrorLocation] = (),
    headers: dict[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> JSONResponse:
    added: Mapping[str, object] = {}
    if form := error_form.get():
        status, added, more_headers = form(ErrorContent(status, code, detail, locations, headers or {}))
        headers = {**(headers or {}), **more_headers}
    answered_error.set((status, code))
    body: dict[str, Any] = {
        "type": f"urn:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id.get(),
    }
    if locations:
        body["errors"] = [{"loc": location.loc, "msg": location.msg} for location in locations[:MAX_LOCATIONS]]
    body.update(more or {})
    body.update(added)
    return JSONResponse(body, status, headers, PROBLEM_JSON)


def log_and_render(error: AppError) -> JSONResponse:
    """Renders an error for the client. An error of the server is also written to the log, with its cause."""
    if error.status >= 500:
        # A full disk rejects every write; the store's own log line says which disk.
        cause = None if isinstance(error, StorageFull) else error.__cause__
        log.warning("%s: %s", error.code, error.detail, exc_info=cause)
    return render(error)


def render(error: AppError) -> JSONResponse:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.challenge is not None:
        headers["WWW-Authenticate"] = error.challenge
    if error.etag is not None:
        headers["ETag"] = error.etag
    return problem(
        error.status, error.code, error.title, error.detail, locations=error.locations, headers=headers, more=error.more
    )


async def _app_error(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, AppError)
    return log_and_render(exc)


async def _validation_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    if exc.errors()[0]["loc"] == ("body",) and not _is_json(request):
        return render(InvalidInput.at("body", NOT_JSON))
    locations = [error_location(error["loc"], error["msg"]) for error in exc.errors()]
    first = locations[0]
    if any(error["type"] == "json_invalid" for error in exc.errors()):
        return render(MalformedBody(f"{first.loc}: {first.msg}", locations=locations))
    return render(InvalidInput(f"{first.loc}: {first.msg}", locations=locations))


async def _http_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    if exc.status_code == 400:
        detail = NOT_UTF8 if isinstance(exc.__cause__, UnicodeDecodeError) else exc.detail
        return render(MalformedBody(f"body: {detail}", locations=[ErrorLocation("body", detail)]))
    code = HTTP_CODES.get(exc.status_code, "http_error")
    headers = dict(exc.headers or {})
    if exc.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
    return problem(exc.status_code, code, exc.detail, exc.detail, headers=headers)


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _methods(request: Request) -> list[str]:
    """All methods of this path. The router knows those of the first matching route, and each of our routes has one."""
    scope, routes = dict(request.scope), request.app.routes
    return [
        method
        for method in METHODS
        if any(route.matches(scope | {"method": method})[0] is Match.FULL for route in routes)
    ]


def internal_error() -> JSONResponse:
    """For an unexpected exception. The log has the details, under the request id."""
    return problem(500, AppError.code, AppError.title, "The server failed. Its log has details under this request_id.")


def error_location(loc: Sequence[int | str], msg: str) -> ErrorLocation:
    """The location and message of a model's validation error."""
    return ErrorLocation(_readable(loc), _printable(msg))


def _readable(loc: Sequence[int | str]) -> str:
    return ".".join(_printable(str(part)) for part in loc)


def _printable(text: str) -> str:
    """A name or a message can contain a lone surrogate from the body, which UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:500]


def install(app: FastAPI) -> None:
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


REASONS = {
    400: "The body is not JSON in UTF-8.",
    401: "No API key, or a wrong, expired or revoked one.",
    403: "The API key's scope does not cover this call.",
    404: "Unknown, or of another account.",
    408: "The body did not arrive in time.",
    409: "Conflicts with stored data, or with a request that is in progress.",
    412: "The document is not as If-Match or If-None-Match says; ETag has its version.",
    413: "The body is too large.",
    415: "The body is compressed.",
    422: "Invalid input; `errors` has the location of each error.",
    429: "Too many requests of this account; Retry-After says how long to wait.",
    500: "The server failed. Its log has the details under the `request_id`.",
    502: "The embedder returned an unusable vector.",
    503: "A store or the embedder is unavailable or overloaded; Retry-After says how long to wait.",
}
RETRY_AFTER = {"description": "Seconds to wait before the next attempt.", "schema": {"type": "integer", "minimum": 1}}

ETAG = {"description": "The document's version now.", "schema": {"type": "string"}}
CHALLENGE = {"description": "The challenge, after RFC 6750.", "schema": {"type": "string"}}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that can return these errors. ``app.api.openapi`` adds 400 and 500."""
    return {status: problem_response(status) for status in statuses}


def problem_response(status: int) -> dict[str, Any]:
    """The OpenAPI description of an error. ``app.api.openapi`` adds the schema that it refers to."""
    response: dict[str, Any] = {
        "description": REASONS[status],
        "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in (429, 503):
        response["headers"] = {"Retry-After": RETRY_AFTER}
    if status == 412:
        response["headers"] = {"ETag": ETAG}
    if status in (401, 403):
        response["headers"] = {"WWW-Authenticate": CHALLENGE}
    return response
