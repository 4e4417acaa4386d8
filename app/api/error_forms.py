"""Errors in the form of another API, for the paths that serve its clients.

Such an error is a problem document with the members that those clients read.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from app.utils.errors import BotNotFound, ErrorLocation

OPENAI_PATHS = "/v1/"
DIFY_PATHS = "/integrations/dify/"
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
RETRY_AFTER = "Retry-After"
NO_RETRY = {"x-should-retry": "false"}
"""Read by OpenAI's clients before they look at the status."""
DIFY_STATUSES = {401: 403, 422: 400}
"""Dify's check of a new API key looks for 403, 404 and 502, and takes any other status for success."""
DIFY_BAD_HEADER, DIFY_BAD_KEY, DIFY_NO_KNOWLEDGE = 1001, 1002, 2001


class ErrorContent(NamedTuple):
    status: int
    code: str
    detail: str
    locations: Sequence[ErrorLocation]
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """The status to send, and the members and headers to add."""

    status: int
    members: dict[str, Any]
    headers: Mapping[str, str] = {}


ErrorForm = Callable[[ErrorContent], Answer]

error_form: ContextVar[ErrorForm | None] = ContextVar("error_form", default=None)
"""The form of errors of the request; None for problem documents alone."""


def form_of(path: str) -> ErrorForm | None:
    if path.startswith(OPENAI_PATHS):
        return _openai
    return _dify if path.startswith(DIFY_PATHS) else None


def _openai(error: ErrorContent) -> Answer:
    """OpenAI's clients show only the member ``error`` of an error. By default they repeat a 409 twice."""
    status, locations = error.status, error.locations
    members = {
        "error": {
            "message": error.detail,
            "type": OPENAI_TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error"),
            "param": locations[0].loc.removeprefix("body.") if locations and status != 400 else None,
            "code": error.code,
        }
    }
    return Answer(status, members, NO_RETRY if status == 409 and RETRY_AFTER not in error.headers else {})


def _dify(error: ErrorContent) -> Answer:
    """``error_code`` is one of the three that Dify's documentation suggests, or the HTTP status."""
    status = DIFY_STATUSES.get(error.status, error.status)
    error_code = status
    if challenge := error.headers.get("WWW-Authenticate"):
        error_code = DIFY_BAD_KEY if "error=" in challenge else DIFY_BAD_HEADER
    elif error.code == BotNotFound.code:
        error_code = DIFY_NO_KNOWLEDGE
    return Answer(status, {"error_code": error_code, "error_msg": error.detail})
