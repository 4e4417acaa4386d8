"""Authenticates a request by its API key: the key's scope and account.

A request with a body is authenticated before its body is read. Any other request is authenticated by its route, so that
routes without authentication never wait for PostgreSQL.
"""

from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as HttpScope

from app.api.bodies import parse_body_headers, reject
from app.api.limits import hit_or_delay, rate_limit_key
from app.core.access.api_keys import UNRESTRICTED, ApiKeyAuthenticator, Caller
from app.core.embedding.cache import cache_account
from app.schemas.operation_rows import Scope
from app.utils.errors import AppError, BotNotFound, ErrorLocation, KeyMissing, Unauthorized

MISSING = "Send an API key: Authorization: Bearer <key>, or X-API-Key: <key>."
TWO_KEYS = "The request has two different API keys."


class Authentication:
    """ASGI middleware. Rejects a request with a body if it has no valid API key or its account is above its rate.

    Needs ``authenticator`` and ``rate_limiter`` in the lifespan's state. Without an authenticator no key is required.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["state"]["authenticator"] is not None:
            headers = parse_body_headers(scope["headers"])
            if headers.length or headers.chunked:
                try:
                    await _admit(scope)
                except AppError as exc:
                    await reject(exc, scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _admit(scope: HttpScope) -> None:
    """Raises as ``_identify``, and RateLimited."""
    caller = await _identify(scope)
    state = scope["state"]
    if state["rate_limiter"] is not None and caller.account:
        await hit_or_delay(state["rate_limiter"], rate_limit_key(caller.account))
        state["rate_limit_hit"] = True


async def _identify(scope: HttpScope) -> Caller:
    """Authenticates a request once. Raises Unauthorized, and DatabaseUnavailable if the key cannot be checked."""
    state = scope["state"]
    caller: Caller | None = state.get("caller")
    if caller is None:
        authenticator: ApiKeyAuthenticator | None = state["authenticator"]
        caller = UNRESTRICTED if authenticator is None else await authenticator.caller(_api_key(scope["headers"]))
        state["caller"], state["account"] = caller, caller.account
    cache_account.set(caller.account or "")  # On each call: the earlier one may have been made in another task.
    return caller


def _api_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The request's API key. Raises KeyMissing if there is none, Unauthorized if there are two different keys."""
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, given = value.partition(b" ")
            if scheme.lower() != b"bearer":
                raise KeyMissing(MISSING)
        elif name == b"x-api-key":
            given = value
        else:
            continue
        given = given.strip()
        if found is not None and found != given:
            raise Unauthorized(TWO_KEYS)
        found = given
    if not found:
        raise KeyMissing(MISSING)
    return found.decode("latin-1")


async def caller_of(request: Request) -> Caller:
    """Raises Unauthorized, and DatabaseUnavailable if the key cannot be checked."""
    return await _identify(request.scope)


async def optional_scope(request: Request, scope: Scope) -> bool:
    """Whether the caller has the scope. For routes that show more to callers with a key; never raises for a key."""
    try:
        return (await caller_of(request)).has_scope(scope)
    except AppError:
        return False


class Account:
    """The account of a request's bots: the API key's account; without API keys the named account, or any."""

    def __init__(self, caller: Caller) -> None:
        self._own = caller.account

    def resolve(self, account: str | None, locations: Iterable[str] = ()) -> str | None:
        """The account to use if the request names ``account``; None for any account.

        Raises BotNotFound, as for an unknown bot, if the API key belongs to another account. ``locations`` are where
        the request names the bots.
        """
        if self._own is None or account in (None, self._own):
            return self._own or account
        raise BotNotFound(locations=[ErrorLocation(location, BotNotFound.DETAIL) for location in locations])


async def callers_account(request: Request) -> Account:
    """Raises as ``caller_of``."""
    return Account(await caller_of(request))


AccountDep = Annotated[Account, Depends(callers_account)]
