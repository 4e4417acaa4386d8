"""IdempotencyPort in plain memory, and the parts of T1 and T2 that are about idempotency keys."""

from datetime import timedelta

from app.schemas.rows import IMPORT_KEYS, IMPORTS_KEPT, IdempotencyKey
from app.utils.errors import RequestInFlight
from tests.doubles.memory_store.tables import KeyRow, Tables


def claim(tables: Tables, key: IdempotencyKey) -> bytes | None:
    row = tables.keys.setdefault((key.account, key.key), KeyRow(key.body_sha256, tables.now()))
    key.check_same(row.body_sha256)
    if row.response is None and row.generation in tables.sagas:
        raise RequestInFlight
    return row.response


def assign(tables: Tables, key: IdempotencyKey, generation: int) -> None:
    tables.keys[key.account, key.key].generation = generation


def lock(tables: Tables, key: IdempotencyKey) -> bool:
    row = tables.keys.get((key.account, key.key))
    return row is not None and row.generation == key.generation and row.response is None


def store_answer(tables: Tables, key: IdempotencyKey, answer: bytes) -> None:
    tables.keys[key.account, key.key].response = answer


class MemoryIdempotencyStore:
    def __init__(self, tables: Tables, keep: timedelta) -> None:
        self._tables = tables
        self._keep = keep

    async def find_answer(self, key: IdempotencyKey) -> bytes | None:
        row = self._tables.keys.get((key.account, key.key))
        if row is None:
            return None
        key.check_same(row.body_sha256)
        return row.response

    async def remember(self, key: IdempotencyKey, answer: bytes) -> bytes:
        if (stored := claim(self._tables, key)) is not None:
            return stored
        store_answer(self._tables, key, answer)
        return answer

    async def sweep(self) -> None:
        for name, row in list(self._tables.keys.items()):
            keep = IMPORTS_KEPT if name[1].startswith(IMPORT_KEYS) else self._keep
            if row.created_at < self._tables.now() - keep and row.generation not in self._tables.sagas:
                del self._tables.keys[name]

    async def forget(self, account: str, prefix: str) -> None:
        for name, row in list(self._tables.keys.items()):
            if name[0] == account and name[1].startswith(prefix) and row.response is not None:
                del self._tables.keys[name]
