"""Routes that read their request body as a stream. ``app.api.bodies`` does not buffer the bodies of their requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import Match
from starlette.types import Scope

ATTRIBUTE = "__streamed_body__"
SCOPE_KEY = "streamed_body"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class StreamedBody:
    """``max_bytes`` is the longest body; None for MAX_BODY_BYTES. ``endless``: there is no longest one."""

    max_bytes: int | None = None
    endless: bool = False


def streamed_body(max_bytes: int | None = None, *, endless: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Declares that an endpoint reads its body by ``request.stream()``, in pieces as they arrive.

    The endpoint takes the Request and has no body parameter. The body may be ``max_bytes`` long, MAX_BODY_BYTES if that
    is None, and must arrive in the time that any body has; time that the endpoint spends between two pieces does not
    count. The stream raises BodyTooLarge or BodyTooSlow. The whole request may take INGEST_TIMEOUT.

    An ``endless`` body may have any length and take any time, as long as a piece of it arrives in each BODY_TIMEOUT. It
    may have ``Content-Encoding: gzip``, which the endpoint has to inflate. A client that does not read its response for
    BODY_TIMEOUT is disconnected.
    """

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, ATTRIBUTE, StreamedBody(max_bytes, endless))
        return endpoint

    return mark


def is_streamed(scope: Scope) -> bool:
    """Whether the body of this request is read as a stream, and so must not be read by anything but the endpoint."""
    return SCOPE_KEY in scope


def is_endless(scope: Scope) -> bool:
    streamed: StreamedBody | None = scope.get(SCOPE_KEY)
    return streamed is not None and streamed.endless


class StreamedRoutes:
    """Finds the StreamedBody of a request's route before the request is routed."""

    def __init__(self, app: FastAPI) -> None:
        self._contexts: Sequence[RouteContext] = list(iter_route_contexts(app.routes))
        self._streamed = [context for context in self._contexts if _marker(context)]

    def find(self, scope: Scope) -> StreamedBody | None:
        if not self._streamed or not any(_matches(context, scope) for context in self._streamed):
            return None
        return next((_marker(context) for context in self._contexts if _matches(context, scope)), None)


def _marker(context: RouteContext) -> StreamedBody | None:
    return getattr(context.endpoint, ATTRIBUTE, None)


def _matches(context: RouteContext, scope: Scope) -> bool:
    return context.matches(scope)[0] is Match.FULL
