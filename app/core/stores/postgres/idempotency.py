"""IdempotencyPort on PostgreSQL, and the parts of T1 and T2 that are about ``idempotency_keys``."""

from datetime import timedelta

from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.tenant_guard import only_account
from app.schemas.queries import SQL
from app.schemas.rows import IMPORTS_KEPT, IdempotencyKey
from app.utils.errors import RequestInFlight


async def claim(conn: Connection, key: IdempotencyKey) -> bytes | None:
    """T1's part: the stored answer, or None when the request is to be carried out.

    The key's row stays locked until T1 ends. Raises IdempotencyKeyReused, RequestInFlight.
    """
    row = await conn.fetchrow(SQL["claim_idempotency_key"], key.account, key.key, key.body_sha256)
    assert row is not None
    key.check_same(row["body_sha256"])
    answer: bytes | None = row["response"]
    if answer is not None:
        return answer
    if row["generation"] is not None and await conn.fetchval(SQL["saga_in_flight"], row["generation"]):
        raise RequestInFlight
    return None


async def assign(conn: Connection, key: IdempotencyKey, generation: int) -> None:
    """From the commit on the key is in flight for as long as this saga is."""
    await conn.execute(SQL["assign_idempotency_key"], key.account, key.key, generation)


async def lock(conn: Connection, key: IdempotencyKey) -> bool:
    """T2's part: locks the key; False when another request has taken it over."""
    return await conn.fetchval(SQL["lock_idempotency_key"], key.account, key.key, key.generation) is not None


async def store_answer(conn: Connection, key: IdempotencyKey, answer: bytes) -> None:
    await conn.execute(SQL["store_idempotent_answer"], key.account, key.key, answer)


class IdempotencyStore:
    """``keep``: how long an answer is stored."""

    def __init__(self, db: Database, keep: timedelta) -> None:
        self._db = db
        self._keep = keep

    async def find_answer(self, key: IdempotencyKey) -> bytes | None:
        rows = only_account(await self._db.fetch(SQL["find_idempotent_answer"], key.account, key.key), key.account)
        for row in rows:
            key.check_same(row["body_sha256"])
            answer: bytes | None = row["response"]
            return answer
        return None

    async def remember(self, key: IdempotencyKey, answer: bytes) -> bytes:
        async with self._db.transaction() as conn:
            if (stored := await claim(conn, key)) is not None:
                return stored
            await store_answer(conn, key, answer)
        return answer

    async def sweep(self) -> None:
        await self._db.execute(SQL["sweep_idempotency_keys"], self._keep, IMPORTS_KEPT)

    async def forget(self, account: str, prefix: str) -> None:
        await self._db.execute(SQL["forget_idempotency_keys"], account, prefix)
