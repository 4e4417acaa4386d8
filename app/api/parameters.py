"""Query parameters: those that a call has, each at most once. A misspelt one must not do nothing."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from app.api.errors import place
from app.utils.errors import ErrorLocation, InvalidInput

EMPTY_BODIES = (b"", b"{}", b"null")
"""What clients send where they have nothing to say."""

_names: dict[Callable[..., Any], tuple[str, ...]] = {}
"""By handler."""


async def check_parameters(request: Request) -> None:
    """Raises InvalidInput for query parameters that the route does not have, or has twice, and for a body that it would
    not read.
    """
    route: APIRoute = request.scope["route"]
    if request.scope["query_string"]:
        _check_query(request.scope["query_string"], route)
    if route.body_field is None and (await request.body()).strip() not in EMPTY_BODIES:
        raise _refused(
            [ErrorLocation("body", "this call takes no body: what it takes stands in the path and the query")]
        )


def _check_query(query: bytes, route: APIRoute) -> None:
    try:
        given = [name for name, _ in parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")]
    except ValueError:
        raise _refused([ErrorLocation("query", "is not UTF-8, percent-encoded: 한글 is %ED%95%9C%EA%B8%80")]) from None
    names = _query_names(route)
    if unknown := [name for name in dict.fromkeys(given) if name not in names]:
        raise _refused([place(("query", name), _unknown(name, names)) for name in unknown])
    if len(set(given)) < len(given):
        twice = [name for name in dict.fromkeys(given) if given.count(name) > 1]
        raise _refused([ErrorLocation(f"query.{name}", "is given more than once") for name in twice])


def _query_names(route: APIRoute) -> tuple[str, ...]:
    names = _names.get(route.endpoint)
    if names is None:
        fields = get_flat_params(route.dependant)
        names = tuple(field.alias for field in fields if isinstance(field.field_info, params.Query))
        _names[route.endpoint] = names
    return names


def _unknown(name: str, names: tuple[str, ...]) -> str:
    if near := get_close_matches(name, names, 1):
        return f"unknown query parameter: did you mean {near[0]}?"
    if not names:
        return "unknown query parameter: this call takes none"
    return f"unknown query parameter: this call takes {', '.join(names)}"


def _refused(places: list[ErrorLocation]) -> InvalidInput:
    return InvalidInput(f"{places[0].loc}: {places[0].msg}", places=places)
