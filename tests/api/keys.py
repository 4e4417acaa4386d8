"""What the suites of API keys share."""

from collections.abc import Sequence
from datetime import timedelta

from app.core.access.api_keys import ApiKeyAdmin
from app.core.stores.postgres.api_keys import KeyStore
from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import Scope


async def make_key(
    db: Database, account: str | None, scopes: Sequence[Scope] = ("write",), expires_in: timedelta | None = None
) -> str:
    return await ApiKeyAdmin(KeyStore(db)).create(account, scopes, expires_in=expires_in)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
