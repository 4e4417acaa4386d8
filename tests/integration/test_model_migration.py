"""A bot moves to another model while it is searched and written to: nothing fails, nothing is lost, nothing is left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from app.config import Settings
from app.core.bots.bots import NewBot
from app.core.commands import model_migrator_over
from app.core.connect import Stores
from app.core.search.query import Query
from app.core.services import build_services
from app.core.stores.postgres.database import Database
from app.utils.errors import (
    BotNotFound,
    DocumentNotFound,
    LeaseLost,
    MigrationInProgress,
    ModelMismatch,
    TextRefused,
)
from app.utils.stopwatch import Stopwatch
from tests.conftest import until
from tests.integration.conftest import Crash, FaultyIndex, assert_at_rest, findings, index_keys
from tests.integration.moving_bot import New, Old, Place, Traffic, document, opened
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The old collection stays for as long as a lease."""
    return settings.model_copy(update={"saga_lease_seconds": 2.5})


@pytest.fixture
async def place(settings: Settings, db: Database, index: FaultyIndex) -> AsyncIterator[Place]:
    async with opened(settings, Stores(db, index, timedelta(0))) as made:
        yield made


@pytest.mark.parametrize("seed", range(3))
async def test_moves_under_load(place: Place, seed: int) -> None:
    traffic = Traffic(place, seed)
    await traffic.fill(150)
    async with traffic:
        moved = await place.move()
    assert moved
    assert moved.copied >= 150
    await traffic.check()
    await place.assert_moved()
    assert await place.move() is None


async def test_moves_under_load_on_milvus_lite(
    settings: Settings, db: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with LiteServer(tmp_path_factory.mktemp("reembed")) as server:
        lite = await connect_index(server.uri, timeout=10)
        try:
            async with opened(settings, Stores(db, lite, timedelta(seconds=0.2))) as place:
                traffic = Traffic(place, 7)
                await traffic.fill(60)
                async with traffic:
                    assert await place.move()
                await traffic.check()
                await place.assert_moved()
        finally:
            await lite.close()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "point",
    [
        "reembed.after_begin",
        "reembed.after_collection",
        "reembed.before_upsert",
        "reembed.after_upsert",
        "reembed.before_switch",
        "reembed.in_switch",
        "reembed.after_switch",
        "drop_collection.before",
        "drop_collection.after",
    ],
)
async def test_resumes_where_it_was_killed(place: Place, at, point: str, times: int) -> None:  # type: ignore[no-untyped-def]
    """Documents are deleted, replaced and added while nobody works on it."""
    traffic = Traffic(place, 1)
    await traffic.fill(200)
    doomed = list(traffic.held)
    reached = at(point, Crash(), times=times)
    for number in range(times):
        with suppress(Crash):
            await place.move()
        for doc_id in doomed[number::20]:
            await place.services.documents.delete(place.bot_id, None, doc_id)
            traffic.deleted.add(traffic.held.pop(doc_id))
        for doc_id in doomed[number + 5 :: 20]:
            await place.services.ingest.replace(place.bot_id, None, doc_id, document(f"again {doc_id}"), Stopwatch())
            traffic.held[doc_id] = f"again {doc_id}"
        await traffic.fill(3)
    await place.move()
    # Recovery crashed in this process: another one takes what it has claimed, as soon as its lease has passed.
    async with build_services(place.settings, place.stores, New()):
        await until(reached_and_quiet(place, reached))
    await traffic.check()
    await place.assert_moved()


def reached_and_quiet(place: Place, reached: asyncio.Event):  # type: ignore[no-untyped-def]
    async def quiet() -> bool:
        return reached.is_set() and not await place.stores.db.fetch("SELECT FROM sagas")

    return quiet


@pytest.mark.parametrize(
    "point", ["reembed.after_begin", "reembed.after_collection", "reembed.before_upsert", "reembed.before_switch"]
)
async def test_bot_deleted_in_the_middle_leaves_nothing(place: Place, at, point: str) -> None:  # type: ignore[no-untyped-def]
    await place.insert("text")

    async def delete() -> None:
        await place.services.bots.delete(place.bot_id, None)

    at(point, delete)
    with pytest.raises(BotNotFound):
        await place.move()
    assert await place.stores.index.collections() == []
    await assert_at_rest(place.stores.db, place.stores.index)


async def test_bot_deleted_after_the_switch_takes_both_collections_along(place: Place) -> None:
    await place.insert("text")
    assert await place.move()
    assert len(await place.stores.index.collections()) == 2
    await place.services.bots.delete(place.bot_id, None)
    assert await place.stores.index.collections() == []
    await assert_at_rest(place.stores.db, place.stores.index)


async def test_one_at_a_time_and_to_one_model(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    await place.insert("text")

    async def another() -> None:
        with pytest.raises(MigrationInProgress):
            await place.move()

    reached = at("reembed.after_collection", another)
    at("reembed.before_upsert", Crash())
    with pytest.raises(Crash):
        await place.move()
    assert reached.is_set()
    with pytest.raises(MigrationInProgress, match="new"):
        await place.move(New(32))
    async with place.migrator() as migrator:
        move = await migrator.abort(place.bot_id)
        assert move
        assert (move.embedding_model, move.dimension) == ("new", 48)
        assert await migrator.abort(place.bot_id) is None
    assert await place.stores.index.collections() == [place.name]
    assert await place.registry() == ("old", 64, place.name)
    await assert_at_rest(place.stores.db, place.stores.index)
    assert await place.texts("text") == ["text"]
    assert await place.move(New(32))


async def test_a_move_whose_process_was_killed_is_taken_over_when_its_lease_has_run_out(place: Place) -> None:
    await place.insert("text")
    await place.stores.db.execute(
        "INSERT INTO reembed_leases VALUES ($1, gen_random_uuid(), now() + interval '1 second')", place.bot_id
    )
    assert await place.move()
    assert not await place.stores.db.fetch("SELECT FROM reembed_leases")
    await place.assert_moved()


async def test_a_process_that_was_paused_past_its_lease_writes_no_more(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    await place.insert("text")
    place.settings = place.settings.model_copy(update={"saga_lease_seconds": 0.5})

    async def overtaken() -> None:
        await place.stores.db.execute(
            "UPDATE reembed_leases SET lease_token = gen_random_uuid(), lease_until = now() - interval '1 second'"
        )
        await asyncio.sleep(0.6)

    at("reembed.before_upsert", overtaken)
    with pytest.raises(LeaseLost):
        await place.move()
    assert await place.move()
    await place.assert_moved()


async def test_crashed_abort_is_ended_by_recovery(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    await place.insert("text")
    at("reembed.before_switch", Crash())
    with pytest.raises(Crash):
        await place.move()
    at("reembed.after_abort", Crash())
    with pytest.raises(Crash):
        async with place.migrator() as migrator:
            await migrator.abort(place.bot_id)
    await until(lambda: only(place, place.name))
    await assert_at_rest(place.stores.db, place.stores.index)


async def only(place: Place, name: str) -> bool:
    return await place.stores.index.collections() == [name]


class Refusing(New):
    async def embed_documents(self, texts):  # type: ignore[no-untyped-def]
        if any("refused" in text for text in texts):
            raise TextRefused("No.")
        return await super().embed_documents(texts)


async def test_text_that_the_model_refuses_stops_the_move_and_nothing_else(place: Place) -> None:
    await place.insert("fine")
    await place.insert("refused")
    with pytest.raises(TextRefused):
        await place.move(Refusing())
    assert await place.texts("fine") == ["fine"]
    assert await findings(place.services.verifier) == []  # A half-done move is no disagreement.
    (state,) = await place.services.verifier.bots()
    assert state.next_model == "new"
    assert await place.move()
    await place.assert_moved()


async def test_half_done_move_and_deleted_documents(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    """While nobody works on it, what is deleted goes from the half-built collection as well."""
    doc_ids = [await place.insert(f"text {number}") for number in range(20)]
    at("reembed.before_switch", Crash())
    with pytest.raises(Crash):
        await place.move()
    (row,) = await place.stores.db.fetch("SELECT next_collection FROM bot_registry")
    await place.services.documents.delete_many(place.bot_id, None, doc_ids[:19])

    async def collected() -> bool:
        keys = await index_keys(place.stores.index)
        return len(keys[row["next_collection"]]) == len(keys[place.name]) == 1

    await until(collected)


async def test_repair_works_on_the_collection_of_now(place: Place) -> None:
    doc_id = await place.insert("lost vector")
    assert await place.move()
    _, _, collection = await place.registry()
    (key,) = (await index_keys(place.stores.index))[collection]
    await place.stores.index.delete(collection, [key])
    mended = [finding.kind async for finding in place.services.repairer.repair_bot(place.bot_id)]
    assert mended == ["vector_lost"]
    assert [result.chunk.doc_id for result in await place.search("lost vector")] == [doc_id]
    await place.stores.index.drop(collection)
    mended = [finding.kind async for finding in place.services.repairer.repair_bot(place.bot_id)]
    assert mended == ["collection_missing", "index_rebuilding"]
    assert await place.texts("lost vector") == ["lost vector"]
    await place.assert_moved()


async def test_second_move_and_the_name_s_next_owner(place: Place) -> None:
    await place.insert("text")
    assert await place.move()
    assert await place.move(New(32))
    assert await place.move(Old(64))
    await until(lambda: one_left(place))
    await place.services.bots.delete(place.bot_id, None)
    next_owner = uuid4()
    await place.services.bots.create(NewBot(next_owner, "b", place.name, "chatty"))
    place.bot_id = next_owner
    await place.insert("of the next one")
    assert await place.texts("of the next one") == ["of the next one"]
    await assert_at_rest(place.stores.db, place.stores.index)
    assert await place.stores.index.collections() == [place.name]


async def one_left(place: Place) -> bool:
    return len(await place.stores.index.collections()) == 1


async def test_server_with_the_new_model_alone_says_what_to_do(place: Place) -> None:
    await place.insert("text")
    async with build_services(place.settings, place.stores, New()) as alone:
        with pytest.raises(ModelMismatch, match="EMBEDDING_PREVIOUS_MODEL"):
            await alone.search.query(Query(place.bot_id, None, ["text"], 1), Stopwatch())
        assert await place.move()
        found = await alone.search.query(Query(place.bot_id, None, ["text"], 1), Stopwatch())
        assert found.results[0][0].chunk.text == "text"


async def test_bot_that_was_never_used_has_nothing_to_move(place: Place) -> None:
    bot_id = uuid4()
    await place.stores.db.execute(
        "INSERT INTO bot_registry (bot_id, bot_name, collection_name) VALUES ($1, 'by hand', 'by_hand')", bot_id
    )
    place.bot_id, place.name = bot_id, "by_hand"
    assert await place.move() is None
    await place.insert("text")
    assert (await place.registry())[0] == "new"


async def test_unknown_bot(place: Place) -> None:
    place.bot_id = uuid4()
    with pytest.raises(BotNotFound):
        await place.move()
    async with place.migrator() as migrator:
        with pytest.raises(BotNotFound):
            await migrator.abort(place.bot_id)


async def test_upsert_that_lands_after_its_process_was_killed(place: Place, index: FaultyIndex) -> None:
    """What the next run looks for only when nothing can land any more: its document was deleted in between."""
    doc_id = await place.insert("deleted in between")
    await place.insert("kept")
    patient = replace(place.stores, late_write_window=timedelta(seconds=0.4))
    index.fault = "later"
    with pytest.raises(Exception, match="did not answer"):
        async with model_migrator_over(place.settings, patient, New()) as migrator:
            await migrator.run(place.bot_id)
    index.fault = None
    await place.services.documents.delete(place.bot_id, None, doc_id)
    await asyncio.sleep(0.2)  # Its row on vector_gc is worked off: this place has no late-write window.
    async with model_migrator_over(place.settings, patient, New()) as migrator:
        moving = asyncio.create_task(migrator.run(place.bot_id))
        await asyncio.sleep(0.1)
        await index.land()
        assert await moving
    with pytest.raises(DocumentNotFound):
        await place.services.documents.get(place.bot_id, None, doc_id, 0, 1)
    await place.assert_moved()


async def test_document_deleted_while_it_is_copied_leaves_no_vector(place: Place, at) -> None:  # type: ignore[no-untyped-def]
    """It is collected before its copy lands, and so once more afterwards."""
    doc_id = await place.insert("gone")
    await place.insert("kept")

    async def delete() -> None:
        await place.services.documents.delete(place.bot_id, None, doc_id)
        await until(collected)

    async def collected() -> bool:
        return not await place.stores.db.fetch("SELECT FROM vector_gc")

    at("reembed.before_upsert", delete)
    assert await place.move()
    await place.assert_moved()


async def test_both_models_are_named_and_asked(place: Place) -> None:
    names = [dependency.name for dependency in await place.services.health.check() if dependency.up]
    assert names == ["postgres", "milvus", "embedder", "previous_embedder"]
    for model, dimension in (("new", 48), ("old", 64)):
        embedded = await place.services.embed.vectors(model, ["text"], None, queries=False)
        assert (embedded.model, embedded.vectors.shape) == (model, (1, dimension))
