"""Writes and searches that the switch of a bot to another model overtakes, and what makes them wait for each other."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from app.config import Settings
from app.core.bots.bots import NewBot
from app.core.connect import Stores
from app.core.ports import VectorIndex
from app.core.search.query import Query
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.model_migrations import ModelMigrationStore
from app.core.stores.postgres.writes import WriteStore
from app.core.write.idempotency import IdempotentRequest
from app.core.write.transactions import WriteTransactions
from app.core.write.write import Write
from app.schemas.queries import SQL
from app.utils.errors import DocumentChanged
from app.utils.stopwatch import Stopwatch
from tests.conftest import until
from tests.integration.conftest import Crash, FaultyIndex
from tests.integration.moving_bot import Place, document, opened


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The old collection stays for as long as a lease."""
    return settings.model_copy(update={"saga_lease_seconds": 2.5})


@pytest.fixture
async def place(settings: Settings, db: Database, index: FaultyIndex) -> AsyncIterator[Place]:
    async with opened(settings, Stores(db, index, timedelta(0))) as made:
        yield made


async def test_write_between_milvus_and_t2_is_begun_anew(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    """The switch overtakes it; its caller notices nothing, and its vectors are where its bot is."""
    kept = await place.insert("kept")

    async def overtake() -> None:
        assert await place.move()

    at("write.before_t2", overtake)
    doc_id = await place.insert("late one", "late two")
    assert await place.texts("late two") == ["late two"]
    assert {result.chunk.doc_id for result in await place.search("late one")} == {kept, doc_id}
    await place.assert_moved()


async def test_replacement_between_milvus_and_t2_is_begun_anew(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    doc_id = await place.insert("first version")

    async def overtake() -> None:
        assert await place.move()

    at("write.before_t2", overtake)
    new = document("first version", "second version")
    (outcome,) = await place.services.ingest.replace(place.bot_id, None, doc_id, new, Stopwatch())
    assert outcome.embedded_chunks == 2  # The old model's vector is not taken along.
    assert await place.texts("version", 2) == ["first version", "second version"]
    await place.assert_moved()


async def test_replacement_that_is_begun_anew_still_loses_to_a_quicker_one(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    doc_id = await place.insert("first version")

    async def overtake() -> None:
        await place.services.ingest.replace(place.bot_id, None, doc_id, document("quicker"), Stopwatch())
        assert await place.move()

    at("write.before_t2", overtake)
    with pytest.raises(DocumentChanged):
        await place.services.ingest.replace(place.bot_id, None, doc_id, document("slower"), Stopwatch())
    assert await place.texts("quicker") == ["quicker"]
    await place.assert_moved()


async def test_batch_over_bots_of_which_one_moves_is_answered_once(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    staying = uuid4()
    await place.services.bots.create(NewBot(staying, "b", f"c_{staying.hex}", "chatty"))

    async def overtake() -> None:
        assert await place.move()

    def once() -> IdempotentRequest:
        return IdempotentRequest(
            "key", b"body", lambda outcomes: repr([outcome.doc_id for outcome in outcomes]).encode()
        )

    at("write.before_t2", overtake)
    first = once()
    batch = [(bot_id, document(f"text of {bot_id}")) for bot_id in (place.bot_id, staying, place.bot_id)]
    outcomes = await place.services.ingest.insert_many(None, batch, Stopwatch(), first)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert first.answer == repr([outcome.doc_id for outcome in outcomes]).encode()
    again = once()
    await place.services.ingest.insert_many(None, batch, Stopwatch(), again)
    assert again.answer == first.answer
    rows = await place.stores.db.fetch("SELECT doc_id FROM documents")
    assert sorted(row["doc_id"] for row in rows) == sorted(outcome.doc_id or 0 for outcome in outcomes)
    await place.assert_moved()


@pytest.mark.parametrize("point", ["write.before_restart", "write.after_restart"])
async def test_crash_while_begun_anew_leaves_nothing(place: Place, at, point: str) -> None:  # type: ignore[no-untyped-def]
    await place.insert("kept")

    async def overtake() -> None:
        assert await place.move()

    def once() -> IdempotentRequest:
        return IdempotentRequest("key", b"body", lambda outcomes: b"answer")

    at("write.before_t2", overtake)
    at(point, Crash())
    with pytest.raises(Crash):
        await place.insert("late", once=once())
    await place.assert_moved()  # Recovery has taken it back.
    assert await place.texts("late", limit=5) == ["kept"]
    await place.insert("late", once=once())
    assert await place.texts("late") == ["late"]


async def test_search_with_the_old_row_goes_on_and_begins_anew_when_its_collection_is_gone(
    place: Place,
    at,  # type: ignore[no-untyped-def]
) -> None:
    await place.insert("something to find")
    bot = await place.services.bots.usable(place.bot_id, None)
    assert await place.move()
    # Until its grace has passed the old collection answers.
    assert place.name in await place.stores.index.collections()
    await until(lambda: dropped(place.stores.index, place.name))
    usable, calls = place.services.bots.usable, 0

    async def stale_at_first(bot_id: UUID, account: str | None):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        return bot if calls == 1 else await usable(bot_id, account)

    place.services.bots.usable = stale_at_first  # type: ignore[method-assign]
    for mode in ("dense", "lexical", "hybrid", None):
        calls = 0
        query = Query(place.bot_id, None, ["something to find"], 1, mode=mode)  # type: ignore[arg-type]
        ((result,),) = (await place.services.search.query(query, Stopwatch())).results
        assert result.chunk.text == "something to find"
        assert calls == 2
    calls = 0
    await place.insert("a write with the old row")
    assert await place.texts("a write with the old row") == ["a write with the old row"]
    assert place.name not in await place.stores.index.collections()
    await place.assert_moved()


async def dropped(index: VectorIndex, name: str) -> bool:
    return name not in await index.collections()


async def test_document_replaced_after_the_switch_is_found_by_a_search_that_began_before(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    """Its new vectors are in the new collection alone: the old one shows a stale key, and would show no more."""
    doc_id = await place.insert("first version")
    reached, go_on = asyncio.Event(), asyncio.Event()
    search_dense = FaultyIndex.search_dense

    async def paused(self: FaultyIndex, *args: object, **options: object):  # type: ignore[no-untyped-def]
        if not reached.is_set():
            reached.set()
            await go_on.wait()
        return await search_dense(self, *args, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaultyIndex, "search_dense", paused)
        searching = asyncio.create_task(place.search("version"))
        await reached.wait()
        assert await place.move()
        await place.services.ingest.replace(place.bot_id, None, doc_id, document("second version"), Stopwatch())
        go_on.set()
        assert [result.chunk.text for result in await searching] == ["second version"]


async def waiting_for_a_lock(db: Database) -> bool:
    sql = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await db.fetch(sql))


async def test_mark_is_read_when_no_write_is_in_its_t1(place: Place, db: Database) -> None:
    moves = ModelMigrationStore(db, timedelta(0))
    async with db.transaction() as conn:
        await conn.fetch(SQL["lock_bot_for_use"], [place.bot_id])
        names = [[place.name], uuid4(), timedelta(hours=1)]
        (row,) = await conn.fetch(SQL["begin_writes"], [place.bot_id], [None], [None], [1], *names)
        reading = asyncio.create_task(moves.low_watermark(place.bot_id))
        await until(lambda: waiting_for_a_lock(db))
    assert await reading == row["generation"]
    await db.execute("DELETE FROM sagas")


async def test_each_write_of_a_batch_has_its_own_saga(place: Place, db: Database) -> None:
    """One statement gives all of them their numbers."""
    bot = await place.services.bots.usable(place.bot_id, None)
    old = await place.insert("old")
    writes = [
        Write(bot, document(*"abcdefgh"[: 1 + number % 5]), old if number == 17 else None) for number in range(50)
    ]
    await WriteTransactions(WriteStore(db, timedelta(0))).begin(writes, uuid4(), timedelta(hours=1))
    rows = await db.fetch("SELECT generation, doc_id, previous_generation, chunk_span FROM sagas ORDER BY generation")
    assert [tuple(row) for row in rows] == [
        (write.generation, write.doc_id, old if number == 17 else None, write.document.chunk_span)
        for number, write in enumerate(writes)
    ]
    assert writes[17].doc_id == old
    await db.execute("DELETE FROM sagas")
    await db.execute("DELETE FROM document_chunks WHERE chunk_id >> 16 <> doc_id OR doc_id <> $1", old)


async def test_a_move_begins_after_every_delete_that_does_not_know_of_it(place: Place, db: Database) -> None:
    doc_id = await place.insert("gone")
    moves = ModelMigrationStore(db, timedelta(0))
    async with db.transaction() as conn:  # A delete, between its two statements.
        await conn.fetch(SQL["lock_documents"], place.bot_id, [doc_id])
        beginning = asyncio.create_task(moves.begin(place.bot_id, "new", 48))
        await until(lambda: waiting_for_a_lock(db))
        await conn.fetch(SQL["delete_documents"], place.bot_id, [doc_id], timedelta(0))
    assert await beginning
    assert await moves.keys_from(place.bot_id, 0) == []


async def test_t2_that_waited_for_the_switch_sees_it(place: Place, db: Database) -> None:
    bot = await place.services.bots.usable(place.bot_id, None)
    store, token = WriteStore(db, timedelta(0)), uuid4()
    transactions = WriteTransactions(store)
    write = Write(bot, document("late"))
    await transactions.begin([write], token, timedelta(hours=1))
    moves = ModelMigrationStore(db, timedelta(0))
    move = await moves.begin(place.bot_id, "new", 48)
    assert move
    async with moves.cut_over(place.bot_id, move) as switch:
        finishing = asyncio.create_task(transactions.finish([write], token))
        await until(lambda: waiting_for_a_lock(db))
        await switch.complete(0, timedelta(hours=1))
    await finishing
    assert (write.moved, write.error) == (True, None)
    assert await store.generation_of(place.bot_id, write.doc_id or 0) is None
    await db.execute("DELETE FROM sagas")
