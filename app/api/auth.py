"""Who calls: the key in a request's head, what it lets its holder do, and whose account that is.

Where there is a body, before it is read. Else the route asks, so that what is open to all never waits for PostgreSQL.
"""

from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as HttpScope

from app.api.bodies import announced, refuse
from app.api.limits import rate_limit_key, spend
from app.core.access.api_keys import UNRESTRICTED, ApiKeyAuthenticator, Caller, Scope
from app.core.bots.bots import NOT_FOUND
from app.core.embedding.cache import cache_account
from app.utils.errors import AppError, BotNotFound, ErrorLocation, KeyMissing, Unauthorized

MISSING = "Send an API key: Authorization: Bearer <key>, or X-API-Key: <key>."
TWO_KEYS = "The request has two different API keys."


class Authentication:
    """Plain ASGI. Refuses bodies without a valid key, and of accounts above their rate.

    Needs ``keys`` and ``rate`` in the lifespan's state; no keys: nobody is asked.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["state"]["keys"] is not None:
            head = announced(scope["headers"])
            if head.length or head.chunked:
                try:
                    await _admit(scope)
                except AppError as exc:
                    await refuse(exc, scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _admit(scope: HttpScope) -> None:
    """Raises as ``_identify``, and RateLimited."""
    caller = await _identify(scope)
    state = scope["state"]
    if state["rate"] is not None and caller.account:
        await spend(state["rate"], rate_limit_key(caller.account))
        state["rate_spent"] = True


async def _identify(scope: HttpScope) -> Caller:
    """Raises Unauthorized, and DatabaseUnavailable when it cannot be known. Asks once a request."""
    state = scope["state"]
    caller: Caller | None = state.get("caller")
    if caller is None:
        keys: ApiKeyAuthenticator | None = state["keys"]
        caller = UNRESTRICTED if keys is None else await keys.caller(_key(scope["headers"]))
        state["caller"], state["account"] = caller, caller.account
    cache_account.set(caller.account or "")  # Each time: what was done before may have been another task.
    return caller


def _key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Raises KeyMissing when there is none, Unauthorized when there are two."""
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
    """Raises Unauthorized, and DatabaseUnavailable when it cannot be known."""
    return await _identify(request.scope)


async def may(request: Request, scope: Scope) -> bool:
    """For what shows more to those who have a key."""
    try:
        return (await caller_of(request)).may(scope)
    except AppError:
        return False


class Account:
    """Whose bots a request is about: the key's account, or without keys the one that it names, or any."""

    def __init__(self, caller: Caller) -> None:
        self._own = caller.account

    def named(self, account: str | None, places: Iterable[str] = ()) -> str | None:
        """Raises BotNotFound, as for an unknown bot, when a request names another account than its key's."""
        if self._own is None or account in (None, self._own):
            return self._own or account
        raise BotNotFound(NOT_FOUND, places=[ErrorLocation(place, NOT_FOUND) for place in places])


async def callers_account(request: Request) -> Account:
    """Raises as ``caller_of``."""
    return Account(await caller_of(request))


AccountDep = Annotated[Account, Depends(callers_account)]
