"""API keys: authentication of callers, and administration.

A key is a prefix to look it up by, ``cm_`` and 8 characters, then ``_`` and 256 random bits in base64url. Only its
SHA-256 is stored: a fast hash is enough for a secret that cannot be guessed.
"""

import asyncio
import hmac
import math
import re
import secrets
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from app.core.ports import ApiKeyPort
from app.schemas.operation_rows import SCOPES, ApiKeyRow, ListedApiKey, Scope, StoredApiKey
from app.utils.errors import DatabaseUnavailable, Forbidden, Unauthorized

KEY = re.compile(r"(cm_[a-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
PREFIX_CHARS = 8
SECRET_BYTES = 32
CACHED_KEYS = 4_096
LOOKUPS = 4
"""Concurrent look-ups of unknown keys, so that many wrong keys cannot take all connections; and as many of cached keys
that have to be read again."""
LOOKUP_SECONDS = 10.0
REFUSED = "The API key is not valid: it is wrong, expired or revoked."


@dataclass(frozen=True, slots=True)
class Caller:
    """``account`` None: the bots of every account, as with an operator's key or without authentication.

    ``rank``: of the highest scope.
    """

    account: str | None
    rank: int

    def has_scope(self, scope: Scope) -> bool:
        return self.rank >= SCOPES.index(scope)

    def require_scope(self, scope: Scope) -> None:
        """Raises Forbidden."""
        if not self.has_scope(scope):
            raise Forbidden(f"This call needs a key with the scope {scope!r}.", scope=scope)


UNRESTRICTED = Caller(None, len(SCOPES) - 1)


@dataclass(frozen=True, slots=True)
class _CachedKey:
    """Valid until the event loop's time ``until``."""

    sha256: bytes
    caller: Caller
    until: float


class ApiKeyAuthenticator:
    """``cache_seconds``: how long a key may still be accepted after it was revoked."""

    def __init__(self, store: ApiKeyPort, cache_seconds: float) -> None:
        self._store = store
        self._cache_seconds = cache_seconds
        self._known: dict[str, _CachedKey] = {}
        self._unknown_lookups = asyncio.Semaphore(LOOKUPS)
        self._refreshing = asyncio.Semaphore(LOOKUPS)

    async def any(self) -> bool:
        """Whether there is a usable key."""
        return await self._store.any()

    async def caller(self, key: str) -> Caller:
        """The caller whose key this is. Raises Unauthorized, and DatabaseUnavailable when the key cannot be looked up.

        At most CACHED_KEYS keys are cached, and only those that exist.
        """
        match = KEY.fullmatch(key)
        if match is None:
            raise Unauthorized(REFUSED)
        prefix = match[1]
        known = self._known.get(prefix)
        if known is None or known.until <= _now():
            known = await self._look_up(prefix)
        if known is None or not hmac.compare_digest(sha256(key.encode()).digest(), known.sha256):
            raise Unauthorized(REFUSED)
        return known.caller

    async def _look_up(self, prefix: str) -> _CachedKey | None:
        try:
            async with (
                asyncio.timeout(LOOKUP_SECONDS),
                self._refreshing if prefix in self._known else self._unknown_lookups,
            ):
                known = self._known.get(prefix)  # Another request may have looked it up.
                if known is not None and known.until > _now():
                    return known
                requested_at = _now()
                stored = await self._store.find(prefix)
        except TimeoutError as exc:
            raise DatabaseUnavailable("PostgreSQL did not answer in time.") from exc
        self._known.pop(prefix, None)
        # A scope of a later version is unknown here: servers of two versions may run beside each other.
        if stored is None or not set(SCOPES) & set(stored.scopes):
            return None
        while len(self._known) >= CACHED_KEYS:
            del self._known[next(iter(self._known))]
        known = self._known[prefix] = _known(stored, requested_at, self._cache_seconds)
        return known


def _known(stored: StoredApiKey, requested_at: float, cache_seconds: float) -> _CachedKey:
    left = math.inf if stored.seconds_left is None else stored.seconds_left
    caller = Caller(stored.account_name, max(SCOPES.index(scope) for scope in SCOPES if scope in stored.scopes))
    return _CachedKey(stored.sha256, caller, requested_at + min(left, cache_seconds))


def _now() -> float:
    return asyncio.get_running_loop().time()


def prefix_of(text: str) -> str:
    """The prefix of a key, or of a text that is a prefix already."""
    match = KEY.fullmatch(text)
    return match[1] if match else text


class ApiKeyAdmin:
    """The operator's commands. All methods raise DatabaseUnavailable."""

    def __init__(self, store: ApiKeyPort) -> None:
        self._store = store

    async def create(
        self, account: str | None, scopes: Collection[Scope], note: str = "", expires_in: timedelta | None = None
    ) -> str:
        """Makes a key and returns it. It cannot be shown again. ``account``: None exactly for an operator's key."""
        alphabet = string.ascii_lowercase + string.digits
        while True:
            prefix = "cm_" + "".join(secrets.choice(alphabet) for _ in range(PREFIX_CHARS))
            key = f"{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
            ordered = [scope for scope in SCOPES if scope in scopes]
            if await self._store.insert(prefix, sha256(key.encode()).digest(), account, ordered, note, expires_in):
                return key

    async def list(self, account: str | None) -> Sequence[ListedApiKey]:
        return await self._store.list(account)

    async def restore(self, row: ApiKeyRow) -> bool:
        """Stores a key of a backup. False, with nothing changed, when there is one with this prefix."""
        return await self._store.restore(row)

    async def revoke(self, key_or_prefix: str) -> bool:
        """Revokes the key. False when there is none, or it was revoked before."""
        return await self._store.revoke(prefix_of(key_or_prefix))
