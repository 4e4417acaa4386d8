"""The simulation repeats exactly, finds no violation in the design, and finds one in each broken design."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest

from app.core.bots.creations import Creations
from app.core.ports import SharedVectors
from app.core.transfer.streams import PartLoad
from app.core.write import generations
from app.core.write.recovery import Recovery
from app.schemas.listing import ListedDocument
from app.schemas.operation_rows import Check, GenerationBlock, VectorGarbage
from app.schemas.rows import Bot, IdempotencyKey
from app.schemas.stream_rows import LinesKey
from app.utils.errors import RequestInFlight
from tests.doubles.memory_store import (
    MemoryDocumentStore,
    MemoryGenerationStore,
    MemoryListingStore,
    MemoryRebuildStore,
    MemorySyncStore,
    MemoryWriteStore,
    idempotency,
)
from tests.doubles.memory_store import streams as memory_streams
from tests.doubles.memory_store import writes as memory_writes
from tests.doubles.memory_store.tables import BotRow, ChunkRow, DocumentRow, PartRow, Tables
from tests.simulation.embedder import DIMENSION
from tests.simulation.faults import Faults
from tests.simulation.run import simulate
from tests.simulation.world import Violation

SEEDS = 200
ENOUGH = 1500
"""Seeds within which a broken design must be found."""


def digest(seed: int) -> str:
    return sha256(repr(simulate(seed).history.events).encode()).hexdigest()


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_no_seed_violates_an_invariant(first: int) -> None:
    for seed in range(first, first + 50):
        try:
            simulate(seed)
        except Violation as violation:
            pytest.fail(f"scripts/simulate --start {seed} --seeds 1: {violation}")


def test_same_seed_gives_the_same_history() -> None:
    """Also in another process, where the hashes of strings differ."""
    seeds = range(3, 33)
    program = f"from tests.simulation.test_simulation import digest; print(*[digest(s) for s in {list(seeds)}])"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    other = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.split() == [digest(seed) for seed in seeds]
    assert len(set(other.stdout.split())) == len(seeds)


# Seeds that found a fault in the server, which was corrected. They had no idempotency keys then.
@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(121, id="verify reports a bot that is being created again as one whose collection is missing"),
        pytest.param(208, id="the error of a creation whose callers were all cancelled is never retrieved"),
        pytest.param(940, id="a paused process writes vectors that recovery has already collected"),
        pytest.param(9809, id="a paused creation creates the collection of a bot that was deleted meanwhile"),
        pytest.param(1214, id="the collection of a stale bot is created again under its old name"),
    ],
)
def test_seed_that_once_failed(seed: int) -> None:
    simulate(seed, keys=False)


# Seeds that found one with all faults. What they draw depends on the calls of the server, so that they may meet other
# faults now. test_restores.py has the restores themselves.
@pytest.mark.parametrize(
    "seed",
    [
        *(pytest.param(seed, id=f"{seed} lacks vectors after a restore") for seed in (381, 4240, 5445, 8355, 8977)),
        pytest.param(1557, id="the first collection of a bot that was deleted stays, as the bot had another one"),
        pytest.param(8717, id="drops of collections keep recovery from the creation that they wait for"),
    ],
)
def test_seed_that_once_failed_with_all_faults(seed: int) -> None:
    simulate(seed)


def test_deletion_that_began_before_a_restore_does_not_end_after_it() -> None:
    """The restored bot once lost its partitions."""
    simulate(1296)


# Each of these removes one line of the design.


def without_the_readers_join(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(self: MemoryDocumentStore, bot_id: object, row: ChunkRow, _chunk_id: int) -> DocumentRow | None:
        return self._document(bot_id, row.doc_id)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryDocumentStore, "_reads", reads)


def without_waiting_for_late_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    collect = Recovery._collect

    async def once(self: Recovery, collection: str, rows: Sequence[VectorGarbage], until: float) -> None:
        await collect(self, collection, [replace(row, window_passed=True) for row in rows], until)

    monkeypatch.setattr(Recovery, "_collect", once)


def without_the_lease_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryWriteStore, "_lost", lambda _store, _writes, _token: set())
    drawn = Faults.drawn
    # Makes likely what may happen: a process outlives its lease while others are at work.
    monkeypatch.setattr(Faults, "drawn", lambda random: replace(drawn(random), pauses=10.0))


def without_the_claim_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = idempotency.claim

    def claim_what_is_in_flight(tables: Tables, key: IdempotencyKey) -> bytes | None:
        with suppress(RequestInFlight):
            return claim(tables, key)
        return None

    monkeypatch.setattr(idempotency, "claim", claim_what_is_in_flight)
    monkeypatch.setattr(idempotency, "lock", lambda _tables, _key: True)


def without_the_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sequence goes on from its value in the backup, as before there were blocks."""

    def use(self: MemoryGenerationStore, first: int, block: GenerationBlock, _older: object) -> None:
        self._tables.blocks.append(block)
        self._tables.first_in_block, self._tables.last_in_block = 1, block.last
        self._tables.restored = False

    monkeypatch.setattr(MemoryGenerationStore, "_use", use)


def without_looking_at_milvus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next block follows the last one that PostgreSQL knows."""
    monkeypatch.setattr(generations, "_mark", lambda _rows: 0)
    monkeypatch.setattr(generations, "_overlap", lambda _one, _other: False)


def without_the_mark_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tables, "progress", lambda _tables, _bot_id: None)


def without_a_new_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost collection is created again under its name, and looks like that of a bot with few documents."""

    async def create_again(self: Creations, bot: Bot, saga: int, _began_at: float) -> None:
        await self._index.create(bot.milvus_collection, self._embedders.current.dimension)
        await self._store.finish_creation(
            saga, bot.bot_id, bot.milvus_collection, "simulated", DIMENSION, self._leases.token
        )

    monkeypatch.setattr(Creations, "_replace", create_again)


def without_doubting_counts_after_a_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surplus rows of documents that the restore removed hide the missing rows of those that it brought back."""

    change_checks(monkeypatch, lost_below=0)


def change_checks(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    claim_check = MemoryRebuildStore.claim_check

    async def changed(self: MemoryRebuildStore, *args: timedelta) -> Check | None:
        check = await claim_check(self, *args)
        return check and replace(check, **changes)

    monkeypatch.setattr(MemoryRebuildStore, "claim_check", changed)


def without_the_doc_id_in_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of documents with the same created_at, those on the next page are skipped."""
    query = MemoryListingStore.query

    async def by_value(self: MemoryListingStore, *args: Any, **kwargs: Any) -> Sequence[ListedDocument]:
        bot_id, where, order, after, limit = args
        if after is not None:
            after = after._replace(doc_id=0 if order.descending else 2**62)
        return await query(self, bot_id, where, order, after, limit, **kwargs)

    monkeypatch.setattr(MemoryListingStore, "query", by_value)


def without_the_filter_of_a_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen by doc_id is deleted, whatever else the filter tests."""

    async def chosen(self: MemoryDocumentStore, bot_id: UUID, where: Any, _after: int, _limit: int) -> Sequence[int]:
        ids = next((condition.value for condition in where.filters if condition.op == "in"), [])
        return self._existing(bot_id, ids, None)

    existing = MemoryDocumentStore._existing
    monkeypatch.setattr(MemoryDocumentStore, "matching_documents", chosen)
    monkeypatch.setattr(
        MemoryDocumentStore, "_existing", lambda self, bot_id, doc_ids, _where: existing(self, bot_id, doc_ids, None)
    )


def without_vectors_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def share(_store: MemoryWriteStore, bot: BotRow, timestamp: int, shared: SharedVectors | None) -> None:
        if shared is None:
            bot.unshared_timestamp = max(bot.unshared_timestamp, timestamp)

    monkeypatch.setattr(MemoryWriteStore, "_share", share)


def without_the_timestamp_of_large_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    share = MemoryWriteStore._share

    def share_only(self: MemoryWriteStore, bot: BotRow, timestamp: int, shared: SharedVectors | None) -> None:
        if shared is not None:
            share(self, bot, timestamp, shared)

    monkeypatch.setattr(MemoryWriteStore, "_share", share_only)


def without_the_timestamp_of_swept_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sweep(self: MemoryWriteStore, _age: timedelta) -> None:
        self._tables.recent.clear()

    monkeypatch.setattr(MemoryWriteStore, "sweep_recent_vectors", sweep)


def without_the_precondition_in_t2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATCH during a PUT or an edit with If-Match would be lost: it does not change the generation."""
    monkeypatch.setattr(memory_writes, "_holds", lambda _write, _version: True)


def without_another_version_after_a_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DocumentRow, "touch", lambda _row, _now: None)


def without_noting_what_a_sync_names(monkeypatch: pytest.MonkeyPatch) -> None:
    found = MemorySyncStore.found

    async def found_nothing(
        self: MemorySyncStore, bot_id: UUID, session_id: UUID, _names: object, lease: timedelta, *, incomplete: bool
    ) -> bool | None:
        return await found(self, bot_id, session_id, [], lease, incomplete=incomplete)

    monkeypatch.setattr(MemorySyncStore, "found", found_nothing)


def without_the_quota_in_t2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes that fitted when they began take the same place."""
    monkeypatch.setattr(memory_writes.MemoryWriteStore, "_shortfall", lambda *_: None)


def without_skipping_the_stored_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is sent again stores its lines once more."""
    monkeypatch.setattr(PartLoad, "_is_stored", lambda _: False)


def without_the_claim_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests that send a part at once both store its lines."""

    def claim(tables: Tables, key: LinesKey) -> None:
        tables.parts.setdefault(key.name, PartRow(tables.now()))

    monkeypatch.setattr(memory_streams, "claim", claim)
    monkeypatch.setattr(memory_streams, "lock", lambda *_: True)


@pytest.mark.parametrize(
    "broken",
    [
        without_the_quota_in_t2,
        without_skipping_the_stored_lines,
        without_the_claim_of_lines,
        without_the_precondition_in_t2,
        without_another_version_after_a_patch,
        without_noting_what_a_sync_names,
        without_the_readers_join,
        without_waiting_for_late_writes,
        without_the_lease_check,
        without_the_claim_of_a_key,
        without_the_jump,
        without_looking_at_milvus,
        without_the_mark_in_rows,
        without_a_new_collection,
        without_doubting_counts_after_a_restore,
        without_the_doc_id_in_a_place,
        without_the_filter_of_a_delete,
        without_vectors_for_others,
        without_the_timestamp_of_large_writes,
        without_the_timestamp_of_swept_vectors,
    ],
)
def test_broken_design_is_found(broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    for seed in range(ENOUGH):
        try:
            simulate(seed)
        except Violation:
            return
    pytest.fail(f"{ENOUGH} seeds did not find it")
