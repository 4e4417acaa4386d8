"""Errors of the server, as exceptions."""

from collections.abc import Sequence
from typing import Any


class ChatMemoryError(Exception):
    """The server refused a call. ``errors``: where and why, such as ``{"loc": "body.limit", "msg": "..."}``."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[dict[str, str]] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.request_id = request_id


class NotFound(ChatMemoryError):
    """There is no such bot or document for this key."""


class PreconditionFailed(ChatMemoryError):
    """The document has another version than ``if_match``. A repeated PATCH may meet its own first attempt."""


def error_of(status: int, body: Any, text: str) -> ChatMemoryError:
    """``body``: the parsed answer, None if it is not JSON, as from a proxy."""
    if not isinstance(body, dict):
        body = {"code": "http_error", "detail": text[:500]}
    kind = {404: NotFound, 412: PreconditionFailed}.get(status, ChatMemoryError)
    return kind(
        status, str(body.get("code")), str(body.get("detail")), body.get("errors") or (), body.get("request_id")
    )
