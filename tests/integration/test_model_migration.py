"""A bot moves to another model while it is searched and written to: nothing fails, nothing is lost, nothing is left."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from app.config import Settings
from app.core.bots.bots import NewBot
from app.core.commands import model_migrator_over
from app.core.connect import Stores
from app.core.operations.model_migration import MigrationResult, ModelMigrator
from app.core.ports import VectorIndex
from app.core.search.query import Query, Result
from app.core.services import Services, build_services
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.model_migrations import ModelMigrationStore
from app.core.stores.postgres.writes import WriteStore
from app.core.write.idempotency import IdempotentRequest
from app.core.write.transactions import WriteTransactions
from app.core.write.write import Write
from app.schemas.queries import SQL
from app.schemas.rows import NewChunk, NewDocument
from app.utils.errors import (
    BotNotFound,
    DocumentChanged,
    DocumentNotFound,
    LeaseLost,
    MigrationInProgress,
    ModelMismatch,
    TextRefused,
)
from app.utils.stopwatch import Stopwatch
from tests.conftest import until
from tests.doubles.hash_embedder import HashEmbedder
from tests.integration.conftest import Crash, FaultyIndex, assert_at_rest, index_keys
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index


class Old(HashEmbedder):
    model = "old"


class New(HashEmbedder):
    model = "new"

    def __init__(self, dimension: int = 48) -> None:
        super().__init__(dimension)


def document(*texts: str) -> NewDocument:
    return NewDocument("t", [NewChunk(number, text) for number, text in enumerate(texts)])


class Place:
    """A server that runs both models, and the command line's process, over the same stores."""

    def __init__(self, settings: Settings, stores: Stores, services: Services) -> None:
        self.settings, self.stores, self.services = settings, stores, services
        self.bot_id = uuid4()
        self.name = f"c_{self.bot_id.hex}"

    @asynccontextmanager
    async def migrator(self, embedder: HashEmbedder | None = None) -> AsyncIterator[ModelMigrator]:
        async with model_migrator_over(self.settings, self.stores, embedder or New()) as migrator:
            yield migrator

    async def move(self, embedder: HashEmbedder | None = None) -> MigrationResult | None:
        async with self.migrator(embedder) as migrator:
            return await migrator.run(self.bot_id)

    async def insert(self, *texts: str, once: IdempotentRequest | None = None) -> int:
        outcomes = await self.services.ingest.insert(self.bot_id, None, document(*texts), Stopwatch(), once)
        return outcomes[0].doc_id or 0

    async def search(self, text: str, limit: int = 10) -> list[Result]:
        query = Query(self.bot_id, None, [text], limit, mode="dense")
        return (await self.services.search.query(query, Stopwatch())).results[0]

    async def texts(self, text: str, limit: int = 1) -> list[str]:
        return [result.chunk.text for result in await self.search(text, limit)]

    async def registry(self) -> tuple[str, int, str]:
        (row,) = await self.stores.db.fetch("SELECT * FROM bot_registry WHERE bot_id = $1", self.bot_id)
        assert (row["collection_name"], row["next_collection"]) == (self.name, None)
        return row["embedding_model"], row["dimension"], row["milvus_collection"] or self.name

    async def assert_moved(self) -> None:
        """To the new model, and at rest, the old collection gone."""
        model, dimension, collection = await self.registry()
        assert (model, dimension) == ("new", 48)
        assert collection != self.name
        await assert_at_rest(self.stores.db, self.stores.index)
        assert await findings(self.services) == []


async def findings(services: Services) -> list[object]:
    found: list[object] = [finding async for finding in services.verifier.check_all()]
    for bot in await services.verifier.bots():
        found += [finding async for finding in services.verifier.check_bot(bot)]
    return found


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The old collection stays for as long as a lease."""
    return settings.model_copy(update={"saga_lease_seconds": 2.5})


@pytest.fixture
async def place(settings: Settings, db: Database, index: FaultyIndex) -> AsyncIterator[Place]:
    async with opened(settings, Stores(db, index, timedelta(0))) as made:
        yield made


@asynccontextmanager
async def opened(settings: Settings, stores: Stores) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(build_services(settings, stores, Old()))
        services = await stack.enter_async_context(build_services(settings, stores, New(), previous=Old()))
        place = Place(settings, stores, services)
        await before.bots.create(NewBot(place.bot_id, "b", place.name, "chatty"))
        yield place


class Traffic:
    """Searchers and writers on one bot until it is left; what they wrote last is what must be found."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place, self.random = place, random.Random(seed)
        self.held: dict[int, str] = {}
        self.deleted: set[str] = set()
        self.searches = self.writes = 0
        self.over = False
        self._busy: set[int] = set()
        self._numbers = iter(range(10**9))

    async def fill(self, count: int) -> None:
        for _ in range(count):
            await self._insert()

    async def __aenter__(self) -> "Traffic":
        writers = [asyncio.create_task(self._for_ever(self._write)) for _ in range(3)]
        self.tasks = [*writers, *(asyncio.create_task(self._for_ever(self._search)) for _ in range(3))]
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        # On until each did something after the move.
        writes, searches = self.writes + 5, self.searches + 5
        while not any(task.done() for task in self.tasks) and (self.writes < writes or self.searches < searches):
            await asyncio.sleep(0.01)
        self.over = True
        failed = [one for one in await asyncio.gather(*self.tasks, return_exceptions=True) if one]
        if failed and kind is None:
            raise failed[0]

    async def _for_ever(self, act) -> None:  # type: ignore[no-untyped-def]
        while not self.over:
            await act()
            await asyncio.sleep(0.002)

    def _text(self) -> str:
        number = next(self._numbers)
        return f"{number} " + " ".join(f"w{self.random.randrange(10**6)}" for _ in range(5))

    async def _insert(self) -> None:
        text = self._text()
        doc_id = await self.place.insert(text, text + " second")
        self.held[doc_id] = text
        self.writes += 1

    async def _write(self) -> None:
        free = [doc_id for doc_id in self.held if doc_id not in self._busy]
        kind = self.random.choice(["insert", "replace", "delete"])
        if kind == "insert" or len(free) < 5:
            await self._insert()
            return
        doc_id = self.random.choice(free)
        self._busy.add(doc_id)
        try:
            if kind == "replace":
                text = self._text()
                await self.place.services.ingest.replace(
                    self.place.bot_id, None, doc_id, document(text, text + " second"), Stopwatch()
                )
                self.held[doc_id] = text
            else:
                await self.place.services.documents.delete(self.place.bot_id, None, doc_id)
                self.deleted.add(self.held.pop(doc_id))
            self.writes += 1
        finally:
            self._busy.discard(doc_id)

    async def _search(self) -> None:
        doc_id = self.random.choice(list(self.held))
        if doc_id in self._busy:
            return
        text = self.held[doc_id]
        found = await self.place.texts(text)
        if self.held.get(doc_id) == text and doc_id not in self._busy:
            assert found == [text]
        self.searches += 1

    async def check(self) -> None:
        for text in self.held.values():
            assert await self.place.texts(text) == [text]
        for text in self.deleted:
            assert await self.place.texts(text) != [text]
        rows = await self.place.stores.db.fetch("SELECT doc_id FROM documents WHERE bot_id = $1", self.place.bot_id)
        assert {row["doc_id"] for row in rows} == self.held.keys()


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
    assert await findings(place.services) == []  # A half-done move is no disagreement.
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


async def test_both_models_are_named_and_asked(place: Place) -> None:
    names = [dependency.name for dependency in await place.services.health.check() if dependency.up]
    assert names == ["postgres", "milvus", "embedder", "previous_embedder"]
    for model, dimension in (("new", 48), ("old", 64)):
        embedded = await place.services.embed.vectors(model, ["text"], None, queries=False)
        assert (embedded.model, embedded.vectors.shape) == (model, (1, dimension))
