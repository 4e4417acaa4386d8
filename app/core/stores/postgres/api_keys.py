"""``api_keys``: by prefix, with the hash of the whole key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.core.stores.postgres.database import Database
from app.schemas.queries import SQL


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A usable key. ``seconds_left`` until it expires, None if it does not."""

    sha256: bytes
    account_name: str
    scopes: Sequence[str]
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class ListedKey:
    """``usable``: neither revoked nor expired."""

    prefix: str
    account_name: str
    scopes: Sequence[str]
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    usable: bool


class KeyStore:
    """All methods raise DatabaseUnavailable."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def insert(
        self, prefix: str, sha256: bytes, account: str, scopes: Sequence[str], note: str, expires_in: timedelta | None
    ) -> bool:
        """False when the prefix is taken."""
        return (
            await self._db.fetchrow(SQL["insert_api_key"], prefix, sha256, account, scopes, note, expires_in)
            is not None
        )

    async def find(self, prefix: str) -> StoredKey | None:
        row = await self._db.fetchrow(SQL["find_api_key"], prefix)
        return StoredKey(**row) if row else None

    async def any(self) -> bool:
        """Whether there is a usable key."""
        row = await self._db.fetchrow(SQL["any_api_key"])
        return bool(row and row[0])

    async def list(self, account: str | None) -> Sequence[ListedKey]:
        """All keys of the account, of all accounts with None; oldest first."""
        return [ListedKey(**row) for row in await self._db.fetch(SQL["list_api_keys"], account)]

    async def revoke(self, prefix: str) -> bool:
        """False when there is no such key, or it is revoked already."""
        return await self._db.fetchrow(SQL["revoke_api_key"], prefix) is not None
