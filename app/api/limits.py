"""How much one request may contain and how much one account may use: limits that settings set within the API's own."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from app.api.errors import error_location
from app.api.streaming import is_streamed
from app.models.fields import TEXT_CHARS
from app.models.inserts import InvalidItem, Item
from app.models.search import MAX_LIMIT
from app.schemas.metadata import METADATA_BYTES, metadata_bytes
from app.utils.errors import InvalidInput, RateLimited, TooManyReads, TooManyWrites
from app.utils.unicode import nfc

if TYPE_CHECKING:  # Its library is imported only where RATE_LIMIT is set.
    from app.api.rate_limiter import RateLimiter

ACCOUNT_CHARS = 128
REJECTION_DELAY_SECONDS = (0.25, 0.75)
"""A 429 is sent after a random delay between these. A client that repeats its request at once then takes little of the
server's time, and clients that were rejected together do not come back together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, seconds and counts. The settings with similar names explain them."""

    body_bytes: int = 32 << 20
    buffered_bytes: int = 64 << 20
    documents: int = 1_000
    chunks: int = 65_536
    text_chars: int = 8_192
    metadata_bytes: int = METADATA_BYTES
    body_seconds: float = 10.0
    request_seconds: float = 30.0
    ingest_seconds: float = 900.0


def rate_limit_key(account: str) -> str:
    return f"account:{nfc(account[:ACCOUNT_CHARS])}"


async def account_of(request: Request) -> str:
    """The rate limit key of a request: the API key's account, else the account it names, else the client's address."""
    account = getattr(request.state, "account", None) or request.query_params.get("account_name")
    if not account and request.headers.get("content-type") and not is_streamed(request.scope):
        try:
            body = await request.json()  # Only with a rate limit and without API keys. FastRoute parses it again.
        except ValueError:
            body = None
        account = body.get("account_name") if isinstance(body, dict) else None
    if account and isinstance(account, str):
        return rate_limit_key(account)
    return _address(request)


def _address(request: Request) -> str:
    return f"address:{request.client.host if request.client else ''}"


async def hit_rate_limit(request: Request) -> None:
    """Counts a request, unless it was counted before its body was read. Raises RateLimited."""
    limiter: RateLimiter | None = request.state.rate_limiter
    if limiter is not None and not hasattr(request.state, "rate_limit_hit"):
        await hit_or_delay(limiter, await account_of(request))


async def hit_or_delay(limiter: "RateLimiter", key: str) -> None:
    """Raises RateLimited, after a delay."""
    try:
        await limiter.hit(key)
    except RateLimited:
        await _delay_rejection()
        raise


async def _delay_rejection() -> None:
    await asyncio.sleep(random.uniform(*REJECTION_DELAY_SECONDS))  # noqa: S311 - not for cryptography


class ConcurrencyLimiter:
    """Limits how many calls of one kind each account has in progress in this process."""

    def __init__(self, limit: int, error: type[TooManyWrites | TooManyReads]) -> None:
        self._limit = limit
        self._error = error
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def slot(self, request: Request, account: str | None) -> AsyncIterator[None]:
        """Holds one of the account's slots, or of the client's address where there is no account.

        Raises TooManyWrites or TooManyReads, after a delay.
        """
        key = rate_limit_key(account) if account else _address(request)
        if self._running[key] >= self._limit:
            await _delay_rejection()
            raise self._error(f"This account already has {self._limit} {self._error.calls} in progress.", retry_after=1)
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]


async def _limits(request: Request) -> Limits:
    limits: Limits = request.state.limits
    return limits


LimitsDep = Annotated[Limits, Depends(_limits)]


def check_documents(items: Sequence[Item | InvalidItem], limits: Limits) -> list[Item | InvalidInput]:
    """The documents of a batch, with an error in place of each that is not valid.

    Raises InvalidInput if the batch is too large, or if none of its documents is valid.
    """
    if len(items) > limits.documents:
        raise InvalidInput.at("body.documents", f"holds more than {limits.documents:,} documents")
    if sum(len(item.chunks) for item in items if isinstance(item, Item)) > limits.chunks:
        raise InvalidInput.at("body.documents", f"holds more than {limits.chunks:,} chunks")
    checked = [checked_item(item, limits, f"body.documents.{number}") for number, item in enumerate(items)]
    errors = [one for one in checked if isinstance(one, InvalidInput)]
    if len(errors) == len(checked):
        raise InvalidInput(errors[0].detail, locations=[location for error in errors for location in error.locations])
    return checked


def checked_item(item: Item | InvalidItem, limits: Limits, where: str) -> Item | InvalidInput:
    """The document, or why it is not valid. ``where``: its location in the body."""
    if isinstance(item, InvalidItem):
        locations = [error_location((where, *loc), msg) for loc, msg in item.errors]
        return InvalidInput(f"{locations[0].loc}: {locations[0].msg}", locations=locations)
    try:
        check_document(item, limits, where)
    except InvalidInput as exc:
        return exc
    return item


def check_document(item: Item, limits: Limits, where: str = "body") -> None:
    """Raises InvalidInput."""
    if len(item.chunks) > limits.chunks:
        raise InvalidInput.at(where, f"holds more than {limits.chunks:,} chunks")
    _check_metadata(item.document.metadata, limits, f"{where}.document.metadata")
    if limits.text_chars >= TEXT_CHARS:  # The models have checked TEXT_CHARS.
        return
    for position, chunk in enumerate(item.chunks):
        if len(chunk.text) > limits.text_chars:
            text = f"is longer than {limits.text_chars:,} characters"
            raise InvalidInput.at(f"{where}.chunks.{position}.text", text)


def check_updates(metadata: dict[str, Any], limits: Limits, where: str = "body.metadata_updates") -> None:
    """Raises InvalidInput. The metadata that results from a PATCH is checked where it is stored."""
    _check_metadata(metadata, limits, where)


def _check_metadata(metadata: dict[str, Any], limits: Limits, where: str) -> None:
    # The models have checked METADATA_BYTES.
    if limits.metadata_bytes < METADATA_BYTES and metadata_bytes(metadata) > limits.metadata_bytes:
        raise InvalidInput.at(where, f"is larger than {limits.metadata_bytes:,} bytes of JSON")


def check_query(texts: Sequence[str], limits: Limits) -> None:
    """Raises InvalidInput if a text is longer than MAX_TEXT_CHARS."""
    if max(map(len, texts)) > limits.text_chars:
        raise InvalidInput.at("body", f"holds a text longer than {limits.text_chars:,} characters")


def check_answer(texts: int, limit: int, context_chunks: int) -> None:
    """Raises InvalidInput if a response could hold more texts, context included, than MAX_LIMIT."""
    if texts * limit * (1 + 2 * context_chunks) > MAX_LIMIT:
        reason = f"with this limit a response could hold more than {MAX_LIMIT:,} texts, context included"
        raise InvalidInput.at("body.context_chunks", reason)
