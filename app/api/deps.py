"""What handlers take: the opened services, and checked parameters."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from app.api.auth import AccountDep, caller_of
from app.api.limits import ConcurrencyLimiter, Limits, hit_rate_limit
from app.api.parameters import check_parameters
from app.core.access.api_keys import ApiKeyAuthenticator, Scope
from app.core.services import Services
from app.models.collection import EXAMPLE_BOT
from app.models.data import EXAMPLE_DOC_ID, InsertBatch, InsertDocument
from app.models.fields import INT64_MAX, AccountName
from app.models.inserts import Insert, InsertMany

if TYPE_CHECKING:
    from app.api.rate_limiter import RateLimiter


class State(TypedDict):
    """The lifespan's state."""

    services: Services
    limits: Limits
    rate: "RateLimiter | None"
    writes: ConcurrencyLimiter
    reads: ConcurrencyLimiter
    hosts: frozenset[str] | None
    keys: ApiKeyAuthenticator | None
    health_open: bool
    docs: Literal["open", "key", "off"]


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


class Admission:
    """The scope that a route needs, declared in its ``dependencies``. Bounds reads; writes are by what answers them."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> AsyncIterator[None]:
        async with self.admitted(request):
            yield

    @asynccontextmanager
    async def admitted(self, request: Request) -> AsyncIterator[None]:
        """Until the answer is sent. Raises Unauthorized, Forbidden, RateLimited, TooManyReads,
        and InvalidInput as ``check_parameters``."""
        caller = await caller_of(request)
        caller.need(self.scope)
        await hit_rate_limit(request)
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
"""Each route that works for an account declares one of them."""
OPEN = Depends(_open)
"""Declared by routes that answer anybody, or look at a key themselves."""


def scope_of(route: BaseRoute) -> Scope | None:
    """The scope that a route declares; None where it declares none."""
    admission = admission_of(route)
    return admission.scope if admission else None


def admission_of(route: BaseRoute) -> Admission | None:
    declared = route.dependencies if isinstance(route, APIRoute) else ()
    found = [one.dependency for one in declared if isinstance(one.dependency, Admission)]
    return found[0] if len(found) == 1 else None


async def _insert(body: InsertDocument) -> Insert:
    return Insert.of(body)


async def _insert_many(body: InsertBatch) -> InsertMany:
    return InsertMany.of(body)


InsertBody = Annotated[Insert, Depends(_insert)]
InsertManyBody = Annotated[InsertMany, Depends(_insert_many)]

BotPath = Annotated[UUID, Path(alias="chat_bot_id", description="The bot.", examples=[EXAMPLE_BOT])]
BotQuery = Annotated[UUID, Query(alias="chat_bot_id", description="The bot.", examples=[EXAMPLE_BOT])]
DocPath = Annotated[
    int,
    Path(alias="doc_id", ge=1, le=INT64_MAX, description="As insert returned it.", examples=[EXAMPLE_DOC_ID]),
]
_AccountQuery = Annotated[
    AccountName | None,
    Query(
        alias="account_name", description="The bot's account; left out, the key's, or without keys any account's bot."
    ),
]


async def _account_of_query(account: AccountDep, account_name: _AccountQuery = None) -> str | None:
    return account.named(account_name)


AccountQuery = Annotated[str | None, Depends(_account_of_query)]
"""The account that a request without a body is about."""
