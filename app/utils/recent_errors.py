"""The last requests of this process that ended in an error, for operators who are given a request id.

They hold nothing of a request but what is in its line of the access log: no path, no text, no account.
"""

from collections import deque
from contextvars import ContextVar
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple

KEPT: Final = 200
"""Errors of the server, and as many refusals: a client that is refused again and again hides no error of the server."""
answered_error: ContextVar[tuple[int, str] | None] = ContextVar("answered_error", default=None)
"""Status and code of the error that the current request was answered with."""


class RecentError(NamedTuple):
    """``route``: the path's template. ``code``: None if the answer was no problem document."""

    request_id: str
    at: datetime
    method: str
    route: str
    status: int
    code: str | None


class RecentErrors:
    def __init__(self, kept: int = KEPT) -> None:
        self._errors: deque[RecentError] = deque(maxlen=kept)
        self._refusals: deque[RecentError] = deque(maxlen=kept)

    def add(self, error: RecentError) -> None:
        (self._errors if error.status >= 500 else self._refusals).appendleft(error)

    def find(self, request_id: str | None, limit: int, *, server_only: bool = False) -> list[RecentError]:
        """The newest first."""
        both = [*self._errors, *(() if server_only else self._refusals)]
        found = (one for one in both if request_id is None or one.request_id == request_id)
        return list(islice(sorted(found, key=lambda one: one.at, reverse=True), limit))
