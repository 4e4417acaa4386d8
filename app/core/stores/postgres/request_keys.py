"""What T1 and T2 record under a request's key, by the kind of the key."""

from app.core.ports import RequestKey, StoredAnswer
from app.core.stores.postgres import idempotency, streams
from app.core.stores.postgres.connection import Connection
from app.schemas.rows import IdempotencyKey


async def assign(conn: Connection, key: RequestKey, generation: int) -> None:
    """T1's part: the key is in flight for as long as this saga is."""
    if isinstance(key, IdempotencyKey):
        await idempotency.assign(conn, key, generation)
    else:
        await streams.assign(conn, key, generation)


async def store_answer(conn: Connection, key: RequestKey, answer: StoredAnswer) -> None:
    if isinstance(key, IdempotencyKey):
        assert isinstance(answer, bytes)
        await idempotency.store_answer(conn, key, answer)
    else:
        assert not isinstance(answer, bytes)
        await streams.store_results(conn, key, answer)
