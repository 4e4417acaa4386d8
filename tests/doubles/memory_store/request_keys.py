"""What T1 and T2 record under a request's key, by the kind of the key."""

from app.core.ports import RequestKey, StoredAnswer
from app.schemas.rows import IdempotencyKey
from tests.doubles.memory_store import idempotency, streams
from tests.doubles.memory_store.tables import Tables


def assign(tables: Tables, key: RequestKey, generation: int) -> None:
    if isinstance(key, IdempotencyKey):
        idempotency.assign(tables, key, generation)
    else:
        streams.assign(tables, key, generation)


def store_answer(tables: Tables, key: RequestKey, answer: StoredAnswer) -> None:
    if isinstance(key, IdempotencyKey):
        assert isinstance(answer, bytes)
        idempotency.store_answer(tables, key, answer)
    else:
        assert not isinstance(answer, bytes)
        streams.store_results(tables, key, answer)
