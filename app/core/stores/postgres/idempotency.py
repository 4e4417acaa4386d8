"""``idempotency_keys``: claimed in T1, answered in T2, swept when they are old."""

from datetime import timedelta

from app.core.stores.postgres.database import Connection, Database
from app.core.stores.postgres.tenant_guard import only_account
from app.core.write.idempotency import IdempotentRequest
from app.schemas.queries import SQL


async def claim(conn: Connection, once: IdempotentRequest) -> bool:
    """T1's part: whether the request is to be carried out; if not, ``once`` has its answer.

    The key's row stays locked until T1 ends. Raises IdempotencyKeyReused, RequestInFlight.
    """
    row = await conn.fetchrow(SQL["claim_idempotency_key"], once.account, once.key, once.body_sha256)
    assert row is not None
    once.check_same(row["body_sha256"])
    if row["response"] is not None:
        once.replay(row["response"])
        return False
    if row["generation"] is not None and await conn.fetchval(SQL["saga_in_flight"], row["generation"]):
        once.raise_in_flight()
    return True


async def assign(conn: Connection, once: IdempotentRequest, generation: int) -> None:
    """From now on the key is in flight for as long as this saga is."""
    once.generation = generation
    await conn.execute(SQL["assign_idempotency_key"], once.account, once.key, generation)


async def hold(conn: Connection, once: IdempotentRequest) -> bool:
    """T2's part: locks the key; False when another request has taken it over."""
    return await conn.fetchval(SQL["hold_idempotency_key"], once.account, once.key, once.generation) is not None


async def store_answer(conn: Connection, once: IdempotentRequest) -> None:
    answer = once.render(once.outcomes())
    await conn.execute(SQL["store_idempotent_answer"], once.account, once.key, answer)
    once.answer = answer


class IdempotencyStore:
    """All methods raise DatabaseUnavailable. ``keep``: how long an answer can be asked for again."""

    def __init__(self, db: Database, keep: timedelta) -> None:
        self._db = db
        self._keep = keep

    async def replay(self, once: IdempotentRequest) -> None:
        """Gives ``once`` the answer of the request that came first, if there is one. Raises IdempotencyKeyReused."""
        rows = only_account(await self._db.fetch(SQL["find_idempotent_answer"], once.account, once.key), once.account)
        for row in rows:
            once.check_same(row["body_sha256"])
            if row["response"] is not None:
                once.replay(row["response"])

    async def sweep(self) -> None:
        await self._db.execute(SQL["sweep_idempotency_keys"], self._keep)
