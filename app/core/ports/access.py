"""What core expects of the record about API keys."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from app.schemas.operation_rows import ApiKeyRow, ListedApiKey, StoredApiKey


class ApiKeyPort(Protocol):
    async def insert(
        self,
        prefix: str,
        sha256: bytes,
        account: str | None,
        scopes: Sequence[str],
        note: str,
        expires_in: timedelta | None,
    ) -> bool:
        """Stores a key by its prefix and the SHA-256 of the whole key. ``account`` None: an
        operator's. ``expires_in`` None: it never expires.

        False when another key has the prefix; then nothing is stored.
        """

    async def find(self, prefix: str) -> StoredApiKey | None:
        """The key with this prefix; None when there is none, or it is revoked or expired."""

    async def any(self) -> bool:
        """Whether there is a usable key."""

    async def list(self, account: str | None) -> Sequence[ListedApiKey]:
        """All keys of the account, or of all accounts with None, oldest first."""

    async def all(self) -> Sequence[ApiKeyRow]:
        """All keys as they are stored, oldest first."""

    async def restore(self, row: ApiKeyRow) -> bool:
        """Stores a key as it was. False, with nothing changed, when there is one with this prefix."""

    async def revoke(self, prefix: str) -> bool:
        """Revokes the key from now on. False when there is no such key, or it was revoked before."""
