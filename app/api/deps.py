"""Dependencies of the routes: the services, the required scope, and validated parameters."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from app.api.auth import AccountDep, caller_of
from app.api.limits import ConcurrencyLimiter, Limits, hit_rate_limit
from app.api.parameters import check_parameters
from app.core.access.api_keys import ApiKeyAuthenticator
from app.core.services import Services
from app.models.collection import EXAMPLE_BOT
from app.models.data import EXAMPLE_DOC_ID, InsertBatch, InsertDocument
from app.models.fields import INT64_MAX, AccountName
from app.models.inserts import Insert, InsertMany
from app.schemas.operation_rows import Scope
from app.utils.recent_errors import RecentErrors

if TYPE_CHECKING:
    from app.api.integrations.mcp import McpSessions
    from app.api.rate_limiter import RateLimiter


class State(TypedDict):
    """The lifespan's state."""

    services: Services
    limits: Limits
    rate_limiter: "RateLimiter | None"
    writes: ConcurrencyLimiter
    reads: ConcurrencyLimiter
    streams: ConcurrencyLimiter
    hosts: frozenset[str] | None
    authenticator: ApiKeyAuthenticator | None
    health_open: bool
    docs: Literal["open", "key", "off"]
    console: Literal["open", "off"]
    mcp: "McpSessions"
    recent_errors: RecentErrors


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


class Admission:
    """The dependency by which a route declares the scope that it needs. It also limits rates and concurrent reads.

    ``any_input``: the route takes any query parameters and any body.

    Concurrent writes of chunks are limited by ``IdempotentResponder``, or by the handler.
    """

    def __init__(self, scope: Scope, *, any_input: bool = False) -> None:
        self.scope = scope
        self._any_input = any_input

    async def __call__(self, request: Request) -> AsyncIterator[None]:
        """Holds the caller's place among the concurrent reads until the response is sent.

        Raises Unauthorized, Forbidden, RateLimited, TooManyReads, and InvalidInput as ``check_parameters``.
        """
        caller = await caller_of(request)
        caller.require_scope(self.scope)
        await hit_rate_limit(request)
        if not self._any_input:
            await check_parameters(request)
        if self.scope != "read":
            yield
            return
        reads: ConcurrencyLimiter = request.state.reads
        async with reads.slot(request, caller.account):
            yield


async def _open() -> None:
    pass


ServicesDep = Annotated[Services, Depends(_services)]
READ = Depends(Admission("read"))
WRITE = Depends(Admission("write"))
OPERATOR = Depends(Admission("operator"))
"""Each route that works on an account's data declares one of these."""
OPEN = Depends(_open)
"""Declared by routes that require no API key, or that check it themselves."""


def scope_of(route: BaseRoute) -> Scope | None:
    """The scope that a route declares; None where it declares none."""
    declared = route.dependencies if isinstance(route, APIRoute) else ()
    found = [one.dependency for one in declared if isinstance(one.dependency, Admission)]
    return found[0].scope if len(found) == 1 else None


async def insert_body(body: InsertDocument) -> Insert:
    return Insert.of(body)


async def insert_many_body(body: InsertBatch) -> InsertMany:
    return InsertMany.of(body)


InsertBody = Annotated[Insert, Depends(insert_body)]
InsertManyBody = Annotated[InsertMany, Depends(insert_many_body)]

BotPath = Annotated[UUID, Path(alias="chat_bot_id", description="The bot.", examples=[EXAMPLE_BOT])]
BotQuery = Annotated[UUID, Query(alias="chat_bot_id", description="The bot.", examples=[EXAMPLE_BOT])]
DocPath = Annotated[
    int,
    Path(
        alias="doc_id",
        ge=1,
        le=INT64_MAX,
        description="The doc_id from the response to the insert.",
        examples=[EXAMPLE_DOC_ID],
    ),
]
_AccountQuery = Annotated[
    AccountName | None,
    Query(
        alias="account_name",
        description="The bot's account. Default: the API key's account; without API keys a bot of any account.",
    ),
]


async def _account_of_query(account: AccountDep, account_name: _AccountQuery = None) -> str | None:
    return account.resolve(account_name)


AccountQuery = Annotated[str | None, Depends(_account_of_query)]
"""The account of a request without a body."""
