"""Every fail point, with every operation that passes it and every kind of fault: undone or done, never half."""

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGKILL
from uuid import UUID, uuid4

import pytest

from app.core.connect import Stores
from app.core.embedding.hash_embedder import HashEmbedder
from app.core.services import Services
from app.core.stores.address import PostgresAddress
from app.utils.errors import (
    AppError,
    BotNotFound,
    DatabaseUnavailable,
    DocumentNotFound,
    EmbedderUnavailable,
    IndexRebuilding,
    VectorIndexUnavailable,
)
from app.utils.failpoints import POINTS, install
from app.utils.stopwatch import Stopwatch
from tests.chaos import operations
from tests.chaos.doomed import LOSS, Doom, run_doomed, services_over, stores_at
from tests.chaos.operations import ENDLESS, EXPECTED, MOVES, NEW, OLD, PASSES, Operation, Target, document, new_bot
from tests.conftest import fresh_database, until
from tests.lite_server import LiteServer

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.doomed", "tests.chaos.server"])

CASES = [(operation, point) for operation, points in PASSES.items() for point in points]
BEFORE, AFTER = {OLD: 2}, {OLD: 2}
HANG_SECONDS = 30
"""An operation or a point that has not come by then never does: no measure of how fast it should be."""
OWN_BOT = (operations.bot_delete, operations.reembed_abort, operations.rebuild_lost, *MOVES)


@dataclass
class Place:
    address: PostgresAddress
    milvus_uri: str
    stores: Stores


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    with LiteServer(tmp_path_factory.mktemp("matrix")) as server:
        yield server


@pytest.fixture(scope="module")
async def place(postgres_server: PostgresAddress, lite: LiteServer) -> AsyncIterator[Place]:
    async with fresh_database(postgres_server) as address, stores_at(address, lite.uri) as stores:
        yield Place(address, lite.uri, stores)


@pytest.fixture(scope="module")
async def home(place: Place) -> UUID:
    """The bot of all cases that leave it alive: making one is dearer than all else here."""
    bot_id = uuid4()
    async with services_over(place.stores) as services:
        await services.bots.create(new_bot(bot_id))
    return bot_id


@pytest.fixture
async def target(place: Place, home: UUID, operation: Operation) -> Target:
    """A bot with two documents and nothing else."""
    bot_id = uuid4() if operation in OWN_BOT else home
    async with services_over(place.stores) as services:
        if bot_id != home:
            await services.bots.create(new_bot(bot_id))
        rows = await place.stores.db.fetch("SELECT doc_id FROM documents WHERE bot_id = $1", bot_id)
        await services.documents.delete_many(bot_id, None, [row["doc_id"] for row in rows])
        outcomes = await services.ingest.insert_many(None, [(bot_id, document(OLD))] * 2, Stopwatch())
    return Target(bot_id, tuple(outcome.doc_id or 0 for outcome in outcomes), uuid4())


def test_every_point_is_passed() -> None:
    assert {point for _, point in CASES} == set(POINTS)


@pytest.mark.parametrize(("operation", "point"), CASES)
async def test_crash(place: Place, target: Target, operation: Operation, point: str) -> None:
    told, theirs = _context.Pipe(duplex=False)
    doom = Doom(place.address, place.milvus_uri, operation, target, point)
    process = _context.Process(target=run_doomed, args=(doom, theirs))
    process.start()
    theirs.close()
    await asyncio.to_thread(process.join, 20)
    assert process.exitcode == -SIGKILL
    assert told.recv() == point
    told.close()
    await assert_whole(place, target, operation, None)


@pytest.mark.parametrize(("operation", "point"), CASES)
async def test_error(place: Place, target: Target, operation: Operation, point: str) -> None:
    """The step fails; behind it, its answer alone."""

    async def fail(_: Services) -> None:
        raise _error_of(point)

    await assert_whole(place, target, operation, await run_with(place, target, operation, point, fail))


@pytest.mark.parametrize(("operation", "point"), CASES)
async def test_lost_reply(place: Place, target: Target, operation: Operation, point: str) -> None:
    """The next call to a store is carried out, and its answer lost."""

    async def lose(_: Services) -> None:
        LOSS.armed = True

    try:
        done = await run_with(place, target, operation, point, lose)
    finally:
        LOSS.armed = False
    await assert_whole(place, target, operation, done)


@pytest.mark.parametrize(("operation", "point"), CASES)
async def test_delay(place: Place, target: Target, operation: Operation, point: str) -> None:
    """The operation stands still, while others read."""

    async def read(services: Services) -> None:
        await assert_readable(services, target, operation)

    done = await run_with(place, target, operation, point, read)
    assert done is not False or operation is operations.insert_unembeddable
    await assert_whole(place, target, operation, done)


async def run_with(place: Place, target: Target, operation: Operation, point: str, act) -> bool | None:  # type: ignore[no-untyped-def]
    """Runs the operation with ``act`` at the first passing of the point; whether it was acknowledged, None for endless
    ones."""
    reached = asyncio.Event()
    problems: list[BaseException] = []

    async def hook(name: str) -> None:
        if name != point or reached.is_set():
            return
        reached.set()
        try:
            await act(services)
        except AssertionError as problem:
            problems.append(problem)

    done: bool | None = None
    async with services_over(place.stores) as services:
        remove = install(hook)
        task = asyncio.ensure_future(operation(services, place.stores, target))
        try:
            if operation in ENDLESS:
                await asyncio.wait_for(reached.wait(), HANG_SECONDS)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            else:
                try:
                    await asyncio.wait_for(task, HANG_SECONDS)
                    done = True
                except AppError as error:
                    done = None if isinstance(error, DatabaseUnavailable) else False
        finally:
            remove()
    assert reached.is_set()
    if problems:
        raise problems[0]
    return done


def _error_of(point: str) -> AppError:
    if "embed" in point:
        return EmbedderUnavailable("The embedder is away.")
    if any(word in point for word in ("upsert", "collection", "drop", "gc.before_delete", "gc.after_delete")):
        return VectorIndexUnavailable("The vector index does not answer.")
    return DatabaseUnavailable("PostgreSQL did not answer in time.")


async def assert_whole(place: Place, target: Target, operation: Operation, done: bool | None) -> None:
    """Once recovery has run: old or new wholly, new if that was acknowledged, and the stores agree."""
    if operation is operations.repair:  # What was to be mended may still be broken: the next repair mends it.
        async with services_over(place.stores) as services:
            mended = [finding async for finding in services.repairer.repair_bot(target.bot_id)]
            assert not done or mended == []
    if operation in MOVES or operation is operations.reembed_abort:  # What was left half-done is ended by the next one.
        ended = operations.reembed_abort if operation is operations.reembed_abort else operations.reembed
        async with services_over(place.stores) as services:
            await ended(services, place.stores, target)
    if operation is operations.rebuild_lost:
        async with services_over(place.stores) as services:
            await operations.noticed(services, target)
    await at_rest(place)
    states = EXPECTED.get(operation, (BEFORE, AFTER))
    bots = {row["bot_id"]: row for row in await place.stores.db.fetch("SELECT * FROM bot_registry")}
    collections = set(await place.stores.index.collections())
    for bot_id in (target.bot_id, target.new_bot_id):
        tables = await place.stores.db.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ $1", bot_id.hex
        )
        assert len(tables) == (2 if bot_id in bots else 0)
        moved = operation in MOVES and bot_id == target.bot_id
        renamed = moved or (operation is operations.rebuild_lost and bot_id == target.bot_id)
        assert (f"m_{bot_id.hex}" in collections) == (bot_id in bots and not renamed)
        model = "next" if moved else "hash"
        assert bot_id not in bots or (bots[bot_id]["state"], bots[bot_id]["embedding_model"]) == ("active", model)
    in_use = {row["milvus_collection"] for row in bots.values() if row["milvus_collection"]}
    assert {name for name in collections if not name.startswith("m_")} == in_use
    assert all(row["next_collection"] is None for row in bots.values())
    if done:
        assert operation is not operations.bot_create or target.new_bot_id in bots
        assert operation is not operations.bot_delete or target.bot_id not in bots
    if operation is operations.bot_delete and target.bot_id not in bots:
        return
    held = await _documents(place, target.bot_id)
    if operation is operations.batch:
        assert held[OLD] == 2
        assert set(held) <= {OLD, NEW}
    else:
        assert held in states
    assert done is None or operation in ENDLESS or held == (states[1] if done else held)
    await _assert_indexed(place, target.bot_id)


async def at_rest(place: Place) -> None:
    async def quiet() -> bool:
        # Nobody who could hold them is alive.
        await place.stores.db.execute("UPDATE sagas SET lease_until = now() - interval '1 hour'")
        await place.stores.db.execute("UPDATE index_rebuilds SET lease_until = now() - interval '1 hour'")
        await place.stores.db.execute("UPDATE vector_gc SET next_attempt_at = now()")
        left = "SELECT FROM sagas UNION ALL SELECT FROM vector_gc UNION ALL SELECT FROM index_rebuilds"
        return not await place.stores.db.fetch(left)

    async with services_over(place.stores):
        await until(quiet)


async def _documents(place: Place, bot_id: UUID) -> Counter[tuple[str, ...]]:
    rows = await place.stores.db.fetch(
        """
        SELECT d.chunk_count, array_agg(c.text ORDER BY c.chunk_id) AS texts
        FROM documents d LEFT JOIN document_chunks c ON c.bot_id = $1 AND c.chunk_id >> 16 = d.generation
        WHERE d.bot_id = $1 GROUP BY d.doc_id, d.chunk_count
        """,
        bot_id,
    )
    assert all(row["chunk_count"] == len(row["texts"]) for row in rows)
    (stored,) = await place.stores.db.fetch("SELECT count(*) FROM document_chunks WHERE bot_id = $1", bot_id)
    assert stored["count"] == sum(row["chunk_count"] for row in rows)
    return Counter(tuple(row["texts"]) for row in rows)


async def _assert_indexed(place: Place, bot_id: UUID) -> None:
    chunks = await place.stores.db.fetch("SELECT chunk_id, text FROM document_chunks WHERE bot_id = $1", bot_id)
    (bot,) = await place.stores.db.fetch("SELECT * FROM bot_registry WHERE bot_id = $1", bot_id)
    collection, index = bot["milvus_collection"] or bot["collection_name"], place.stores.index
    assert {key async for page in index.scan(collection) for key in page} == {row["chunk_id"] for row in chunks}
    for text in {row["text"] for row in chunks}:
        query = await HashEmbedder(bot["dimension"]).embed_queries([text])
        (hits,) = await index.search_dense(collection, query, 100)
        same = {hit.chunk_id for hit in hits if hit.score > 0.999}
        assert same == {row["chunk_id"] for row in chunks if row["text"] == text}


async def assert_readable(services: Services, target: Target, operation: Operation) -> None:
    """Each document is whole, old or new."""
    try:
        for doc_id in target.doc_ids:
            with suppress(DocumentNotFound):
                _, chunks, _ = await services.documents.get(target.bot_id, None, doc_id, 0, 1000)
                assert tuple(chunk.text for chunk in chunks) in (OLD, NEW)
        query = operations.query(target.bot_id, OLD[0])
        (results,) = (await services.search.query(query, Stopwatch())).results
    except BotNotFound:
        assert operation is operations.bot_delete
        return
    except IndexRebuilding:
        assert operation in operations.REBUILDS
        return
    by_document: dict[int, set[str]] = {}
    for result in results:
        by_document.setdefault(result.chunk.doc_id, set()).add(result.chunk.text)
    whole = (set(OLD), set(NEW))
    if operation is operations.repair:
        assert all(any(texts <= version for version in whole) for texts in by_document.values())
    else:
        assert all(texts in whole for texts in by_document.values())
    assert by_document or operation is operations.delete_batch
