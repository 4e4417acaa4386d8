"""ApiKeyPort on PostgreSQL: ``api_keys``."""

from collections.abc import Sequence
from dataclasses import astuple
from datetime import timedelta

from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import ApiKeyRow, ListedApiKey, StoredApiKey
from app.schemas.queries import SQL


class KeyStore:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def insert(
        self,
        prefix: str,
        sha256: bytes,
        account: str | None,
        scopes: Sequence[str],
        note: str,
        expires_in: timedelta | None,
    ) -> bool:
        return (
            await self._db.fetchrow(SQL["insert_api_key"], prefix, sha256, account, scopes, note, expires_in)
            is not None
        )

    async def find(self, prefix: str) -> StoredApiKey | None:
        row = await self._db.fetchrow(SQL["find_api_key"], prefix)
        return StoredApiKey(**row) if row else None

    async def any(self) -> bool:
        row = await self._db.fetchrow(SQL["any_api_key"])
        return bool(row and row[0])

    async def list(self, account: str | None) -> Sequence[ListedApiKey]:
        return [ListedApiKey(**row) for row in await self._db.fetch(SQL["list_api_keys"], account)]

    async def all(self) -> Sequence[ApiKeyRow]:
        return [ApiKeyRow(**row) for row in await self._db.fetch(SQL["all_api_keys"])]

    async def restore(self, row: ApiKeyRow) -> bool:
        return await self._db.fetchrow(SQL["restore_api_key"], *astuple(row)) is not None

    async def revoke(self, prefix: str) -> bool:
        return await self._db.fetchrow(SQL["revoke_api_key"], prefix) is not None
