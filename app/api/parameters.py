"""Rejects query parameters that a route does not have. A misspelt parameter must not be ignored."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from app.api.errors import error_location
from app.api.streaming import is_streamed
from app.utils.errors import ErrorLocation, InvalidInput

EMPTY_BODIES = (b"", b"{}", b"null")
"""Bodies that clients send with requests that need no body."""

_names: dict[Callable[..., Any], tuple[str, ...]] = {}
"""Names of query parameters, by endpoint."""


async def check_parameters(request: Request) -> None:
    """Raises InvalidInput for an unknown or repeated query parameter, and for a body that the route does not read."""
    route: APIRoute = request.scope["route"]
    if request.scope["query_string"]:
        _check_query(request.scope["query_string"], route)
    if route.body_field is not None or is_streamed(request.scope):
        return
    if (await request.body()).strip() not in EMPTY_BODIES:
        raise _invalid([ErrorLocation("body", "this call takes no body, only path and query parameters")])


def _check_query(query: bytes, route: APIRoute) -> None:
    try:
        given = [name for name, _ in parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")]
    except ValueError:
        raise _invalid([ErrorLocation("query", "is not UTF-8, percent-encoded: 한글 is %ED%95%9C%EA%B8%80")]) from None
    names = _query_names(route)
    if unknown := [name for name in dict.fromkeys(given) if name not in names]:
        raise _invalid([error_location(("query", name), _unknown(name, names)) for name in unknown])
    if len(set(given)) < len(given):
        repeated = [name for name in dict.fromkeys(given) if given.count(name) > 1]
        raise _invalid([ErrorLocation(f"query.{name}", "is given more than once") for name in repeated])


def _query_names(route: APIRoute) -> tuple[str, ...]:
    names = _names.get(route.endpoint)
    if names is None:
        fields = get_flat_params(route.dependant)
        names = tuple(field.alias for field in fields if isinstance(field.field_info, params.Query))
        _names[route.endpoint] = names
    return names


def _unknown(name: str, names: tuple[str, ...]) -> str:
    if similar := get_close_matches(name, names, 1):
        return f"unknown query parameter: did you mean {similar[0]}?"
    if not names:
        return "unknown query parameter: this call takes none"
    return f"unknown query parameter: this call takes {', '.join(names)}"


def _invalid(locations: list[ErrorLocation]) -> InvalidInput:
    return InvalidInput(f"{locations[0].loc}: {locations[0].msg}", locations=locations)
