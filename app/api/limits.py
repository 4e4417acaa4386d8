"""How much one request may ask for, and how much one account: what settings allow below the contract's own bounds."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from app.api.errors import place
from app.models.inserts import Item, RefusedItem
from app.models.search import MAX_LIMIT
from app.schemas.metadata import METADATA_BYTES, METADATA_DEPTH, metadata_bytes
from app.utils.errors import ErrorLocation, InvalidInput, RateLimited, TooManyReads, TooManyWrites
from app.utils.unicode import nfc

if TYPE_CHECKING:  # Its library is loaded only where RATE_LIMIT is set.
    from app.api.rate_limiter import RateLimiter

ACCOUNT_CHARS = 128
REJECTION_DELAY_SECONDS = (0.25, 0.75)
"""How long a 429 waits. Who asks again at once cannot take the server's time from others so, and those who were refused
together do not come back together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, seconds and counts; the settings of the same names say what each means."""

    body_bytes: int = 32 << 20
    bodies_bytes: int = 64 << 20
    documents: int = 1_000
    chunks: int = 65_536
    text_chars: int = 8_192
    metadata_bytes: int = METADATA_BYTES
    metadata_depth: int = METADATA_DEPTH
    body_seconds: float = 10.0
    request_seconds: float = 30.0
    ingest_seconds: float = 900.0


def rate_limit_key(account: str) -> str:
    return f"account:{nfc(account[:ACCOUNT_CHARS])}"


async def account_of(request: Request) -> str:
    """Whose request this is: the key's account, else the one it names, else the address it comes from."""
    account = getattr(request.state, "account", None) or request.query_params.get("account_name")
    if not account and request.headers.get("content-type"):
        try:
            body = await request.json()  # Kept for FastAPI. The direct way parses it twice, with a rate but no keys.
        except ValueError:
            body = None
        account = body.get("account_name") if isinstance(body, dict) else None
    if account and isinstance(account, str):
        return rate_limit_key(account)
    return _address(request)


def _address(request: Request) -> str:
    return f"address:{request.client.host if request.client else ''}"


async def hit_rate_limit(request: Request) -> None:
    """For every route that works for an account, where it was not done before the body was read. Raises RateLimited."""
    rate: RateLimiter | None = request.state.rate
    if rate is not None and not hasattr(request.state, "rate_spent"):
        await spend(rate, await account_of(request))


async def spend(rate: "RateLimiter", account: str) -> None:
    """Raises RateLimited, after a while."""
    try:
        await rate.spend(account)
    except RateLimited:
        await asyncio.sleep(random.uniform(*REJECTION_DELAY_SECONDS))  # noqa: S311 - guards nothing
        raise


class ConcurrencyLimiter:
    """How many calls of one kind each account has in flight in this process."""

    def __init__(self, most: int, error: type[TooManyWrites | TooManyReads]) -> None:
        self._most = most
        self._error = error
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def slot(self, request: Request, account: str | None) -> AsyncIterator[None]:
        """One of the account's while inside, or of the address's where there is none. Raises TooManyWrites or
        TooManyReads, after a while.
        """
        counted = rate_limit_key(account) if account else _address(request)
        if self._running[counted] >= self._most:
            await asyncio.sleep(random.uniform(*REJECTION_DELAY_SECONDS))  # noqa: S311 - guards nothing
            raise self._error(f"This account already has {self._most} {self._error.calls} in progress.", retry_after=1)
        self._running[counted] += 1
        try:
            yield
        finally:
            self._running[counted] -= 1
            if not self._running[counted]:
                del self._running[counted]


async def _limits(request: Request) -> Limits:
    limits: Limits = request.state.limits
    return limits


LimitsDep = Annotated[Limits, Depends(_limits)]


def sound_documents(items: Sequence[Item | RefusedItem], limits: Limits) -> list[Item | InvalidInput]:
    """The documents of a batch, and in place of each that cannot be stored what is wrong with it.

    Raises InvalidInput when the batch is too large, or none of its documents is sound.
    """
    if len(items) > limits.documents:
        raise _refused("body.documents", f"holds more than {limits.documents:,} documents")
    if sum(len(item.chunks) for item in items if isinstance(item, Item)) > limits.chunks:
        raise _refused("body.documents", f"holds more than {limits.chunks:,} chunks")
    checked = [_checked(item, limits, f"body.documents.{number}") for number, item in enumerate(items)]
    errors = [one for one in checked if isinstance(one, InvalidInput)]
    if len(errors) == len(checked):
        raise InvalidInput(errors[0].detail, places=[place for error in errors for place in error.places])
    return checked


def _checked(item: Item | RefusedItem, limits: Limits, where: str) -> Item | InvalidInput:
    if isinstance(item, RefusedItem):
        places = [place((where, *loc), msg) for loc, msg in item.errors]
        return InvalidInput(f"{places[0].loc}: {places[0].msg}", places=places)
    try:
        _check(item, limits, where)
    except InvalidInput as exc:
        return exc
    return item


def check_document(item: Item, limits: Limits) -> None:
    """Raises InvalidInput."""
    if len(item.chunks) > limits.chunks:
        raise _refused("body", f"holds more than {limits.chunks:,} chunks")
    _check(item, limits, "body")


def _check(item: Item, limits: Limits, where: str) -> None:
    _check_metadata(item.document.metadata, limits, f"{where}.document.metadata")
    for position, chunk in enumerate(item.chunks):
        if len(chunk.text) > limits.text_chars:
            text = f"is longer than {limits.text_chars:,} characters"
            raise _refused(f"{where}.chunks.{position}.text", text)


def check_updates(metadata: dict[str, Any], limits: Limits) -> None:
    """Raises InvalidInput. What a PATCH makes of the stored metadata is checked where it is stored."""
    _check_metadata(metadata, limits, "body.metadata_updates")


def _check_metadata(metadata: dict[str, Any], limits: Limits, place: str) -> None:
    # What the contract itself allows was looked at when the body was read.
    if limits.metadata_bytes < METADATA_BYTES and metadata_bytes(metadata) > limits.metadata_bytes:
        raise _refused(place, f"is larger than {limits.metadata_bytes:,} bytes of JSON")
    if limits.metadata_depth < METADATA_DEPTH and _depth(metadata) > limits.metadata_depth:
        raise _refused(place, f"is nested deeper than {limits.metadata_depth} levels")


def check_query(texts: Sequence[str], limits: Limits) -> None:
    """Raises InvalidInput when a text is longer than the settings allow."""
    if max(map(len, texts)) > limits.text_chars:
        raise _refused("body", f"holds a text longer than {limits.text_chars:,} characters")


def check_answer(texts: int, limit: int, context_chunks: int) -> None:
    """Raises InvalidInput when an answer could hold more texts, context included, than MAX_LIMIT."""
    if texts * limit * (1 + 2 * context_chunks) > MAX_LIMIT:
        reason = f"with this limit an answer could hold more than {MAX_LIMIT:,} texts, context included"
        raise _refused("body.context_chunks", reason)


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        level = [
            below
            for item in level
            if isinstance(item, dict | list)
            for below in (item.values() if isinstance(item, dict) else item)
        ]
        depth += 1
    return depth - 1


def _refused(place: str, reason: str) -> InvalidInput:
    return InvalidInput(f"{place}: {reason}", places=[ErrorLocation(place, reason)])
