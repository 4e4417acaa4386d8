"""Idempotency keys in plain memory; keeps to OncePort as ``stores.once`` does."""

from datetime import timedelta

from app.core.write.idempotency import IdempotentRequest
from tests.doubles.memory_store.tables import KeyRow, Tables


def claim(tables: Tables, once: IdempotentRequest) -> bool:
    row = tables.keys.setdefault((once.account, once.key), KeyRow(once.body_sha256, tables.now()))
    once.check_same(row.body_sha256)
    if row.response is not None:
        once.replay(row.response)
        return False
    if row.generation in tables.sagas:
        once.raise_in_flight()
    return True


def assign(tables: Tables, once: IdempotentRequest, generation: int) -> None:
    once.generation = tables.keys[once.account, once.key].generation = generation


def hold(tables: Tables, once: IdempotentRequest) -> bool:
    row = tables.keys.get((once.account, once.key))
    return row is not None and row.generation == once.generation and row.response is None


def store_answer(tables: Tables, once: IdempotentRequest) -> None:
    once.answer = tables.keys[once.account, once.key].response = once.render(once.outcomes())


class MemoryIdempotencyStore:
    def __init__(self, tables: Tables, keep: timedelta) -> None:
        self._tables = tables
        self._keep = keep

    async def replay(self, once: IdempotentRequest) -> None:
        if row := self._tables.keys.get((once.account, once.key)):
            once.check_same(row.body_sha256)
            if row.response is not None:
                once.replay(row.response)

    async def sweep(self) -> None:
        oldest = self._tables.now() - self._keep
        for name, row in list(self._tables.keys.items()):
            if row.created_at < oldest and row.generation not in self._tables.sagas:
                del self._tables.keys[name]
