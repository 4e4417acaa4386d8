"""Each operation at each fail point with each kind of fault: afterwards it is undone or done, never half done."""

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
from tests.chaos.killed_operation import LOST_REPLY, KilledOperation, run_until_killed, services_over, stores_at
from tests.chaos.operations import (
    ENDLESS,
    EXPECTED,
    MIGRATIONS,
    NEW,
    OLD,
    PASSES,
    VERSIONS,
    Operation,
    Target,
    document,
    new_bot,
)
from tests.conftest import fresh_database, until
from tests.doubles.hash_embedder import HashEmbedder
from tests.lite_server import LiteServer

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.killed_operation", "tests.chaos.server"])

CASES = [(operation, point) for operation, points in PASSES.items() for point in points]
BEFORE, AFTER = {OLD: 2}, {OLD: 2}
HANG_SECONDS = 30
"""After this time an operation hangs. It says nothing of how fast it should be."""
HOLDS_SEARCHES = ("rebuild.before_collection", "rebuild.after_collection")
"""At these points searches of the same process wait for the collection whose creation is held up."""
NEEDS_OWN_BOT = (operations.bot_delete, operations.reembed_abort, operations.rebuild_lost, *MIGRATIONS)


@dataclass
class Environment:
    address: PostgresAddress
    milvus_uri: str
    stores: Stores


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    with LiteServer(tmp_path_factory.mktemp("matrix")) as server:
        yield server


@pytest.fixture(scope="module")
async def env(postgres_server: PostgresAddress, lite: LiteServer) -> AsyncIterator[Environment]:
    async with fresh_database(postgres_server) as address, stores_at(address, lite.uri) as stores:
        yield Environment(address, lite.uri, stores)


@pytest.fixture(scope="module")
async def shared_bot(env: Environment) -> UUID:
    """The bot of all cases that do not delete or migrate it: creating a bot takes longer than everything else here."""
    bot_id = uuid4()
    async with services_over(env.stores) as services:
        await services.bots.create(new_bot(bot_id))
    return bot_id


@pytest.fixture
async def target(env: Environment, shared_bot: UUID, operation: Operation) -> Target:
    """A bot with two documents."""
    bot_id = uuid4() if operation in NEEDS_OWN_BOT else shared_bot
    async with services_over(env.stores) as services:
        if bot_id != shared_bot:
            await services.bots.create(new_bot(bot_id))
        rows = await env.stores.db.fetch("SELECT doc_id FROM documents WHERE bot_id = $1", bot_id)
        await services.documents.delete_many(bot_id, None, [row["doc_id"] for row in rows])
        outcomes = await services.ingest.insert_many(None, [(bot_id, document(OLD))] * 2, Stopwatch())
    return Target(bot_id, tuple(outcome.doc_id or 0 for outcome in outcomes), uuid4())


def test_every_fail_point_is_passed() -> None:
    assert {point for _, point in CASES} == set(POINTS)


@pytest.mark.parametrize(("operation", "point"), CASES)
async def test_crash_leaves_old_or_new(env: Environment, target: Target, operation: Operation, point: str) -> None:
    reached, theirs = _context.Pipe(duplex=False)
    killed = KilledOperation(env.address, env.milvus_uri, operation, target, point)
    process = _context.Process(target=run_until_killed, args=(killed, theirs))
    process.start()
    theirs.close()
    await asyncio.to_thread(process.join, 20)
    assert process.exitcode == -SIGKILL
    assert reached.recv() == point
    reached.close()
    await assert_old_or_new(env, target, operation, None)


@pytest.mark.parametrize(("operation", "point"), CASES)
async def test_error_leaves_old_or_new(env: Environment, target: Target, operation: Operation, point: str) -> None:
    """The step fails at a point before it; at a point after it, its answer is replaced by an error."""

    async def fail(_: Services) -> None:
        raise _error_of(point)

    await assert_old_or_new(env, target, operation, await run_with(env, target, operation, point, fail))


@pytest.mark.parametrize(("operation", "point"), CASES)
async def test_lost_reply_leaves_old_or_new(env: Environment, target: Target, operation: Operation, point: str) -> None:
    """The next call to a store is carried out, and its answer is lost."""

    async def lose(_: Services) -> None:
        LOST_REPLY.armed = True

    try:
        done = await run_with(env, target, operation, point, lose)
    finally:
        LOST_REPLY.armed = False
    await assert_old_or_new(env, target, operation, done)


@pytest.mark.parametrize(("operation", "point"), CASES)
async def test_readers_see_old_or_new_during_a_delay(
    env: Environment, target: Target, operation: Operation, point: str
) -> None:
    """The operation waits at the point while documents are read and searched."""

    async def read(services: Services) -> None:
        if point not in HOLDS_SEARCHES:
            await assert_readable(services, target, operation)
            return
        async with services_over(env.stores) as another_process:
            await assert_readable(another_process, target, operation)

    done = await run_with(env, target, operation, point, read)
    assert done is not False or operation is operations.insert_unembeddable
    await assert_old_or_new(env, target, operation, done)


async def run_with(env: Environment, target: Target, operation: Operation, point: str, act) -> bool | None:  # type: ignore[no-untyped-def]
    """Runs the operation, and ``act`` when the point is first passed.

    Returns whether the operation was acknowledged; None when that is unknown, and for the endless ones.
    """
    reached, acted = asyncio.Event(), asyncio.Event()
    problems: list[BaseException] = []

    async def hook(name: str) -> None:
        if name != point or reached.is_set():
            return
        reached.set()
        try:
            await act(services)
        except AssertionError as problem:
            problems.append(problem)
        finally:
            acted.set()

    done: bool | None = None
    async with services_over(env.stores) as services:
        remove = install(hook)
        task = asyncio.ensure_future(operation(services, env.stores, target))
        try:
            if operation in ENDLESS:
                await asyncio.wait_for(acted.wait(), HANG_SECONDS)
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
        return EmbedderUnavailable("The embedder is unavailable.")
    if any(word in point for word in ("upsert", "collection", "drop", "gc.before_delete", "gc.after_delete")):
        return VectorIndexUnavailable("The vector index does not answer.")
    return DatabaseUnavailable("PostgreSQL did not answer in time.")


async def assert_old_or_new(env: Environment, target: Target, operation: Operation, done: bool | None) -> None:
    """After recovery the documents are all old or all new, new if that was acknowledged, and the stores agree."""
    if operation is operations.repair:  # The damage may still be there: the next repair removes it.
        async with services_over(env.stores) as services:
            repaired = [finding async for finding in services.repairer.repair_bot(target.bot_id)]
            assert not done or repaired == []
    if operation in MIGRATIONS or operation is operations.reembed_abort:  # The next one finishes an interrupted one.
        ended = operations.reembed_abort if operation is operations.reembed_abort else operations.reembed
        async with services_over(env.stores) as services:
            await ended(services, env.stores, target)
    if operation is operations.rebuild_lost:
        async with services_over(env.stores) as services:
            await operations.detect_loss(services, target)
    await at_rest(env)
    if operation in operations.BY_PARTS:
        async with services_over(env.stores) as services:
            await operation(services, env.stores, target)
        await at_rest(env)
        assert await _documents(env, target.bot_id) == {OLD: 2, NEW: 2}
    states = EXPECTED.get(operation, (BEFORE, AFTER))
    bots = {row["bot_id"]: row for row in await env.stores.db.fetch("SELECT * FROM bot_registry")}
    collections = set(await env.stores.index.collections())
    for bot_id in (target.bot_id, target.new_bot_id):
        tables = await env.stores.db.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ $1", bot_id.hex
        )
        assert len(tables) == (2 if bot_id in bots else 0)
        migrated = operation in MIGRATIONS and bot_id == target.bot_id
        renamed = migrated or (operation is operations.rebuild_lost and bot_id == target.bot_id)
        assert (f"m_{bot_id.hex}" in collections) == (bot_id in bots and not renamed)
        model = "next" if migrated else "hash"
        assert bot_id not in bots or (bots[bot_id]["state"], bots[bot_id]["embedding_model"]) == ("active", model)
    in_use = {row["milvus_collection"] for row in bots.values() if row["milvus_collection"]}
    assert {name for name in collections if not name.startswith("m_")} == in_use
    assert all(row["next_collection"] is None for row in bots.values())
    if done:
        assert operation is not operations.bot_create or target.new_bot_id in bots
        assert operation is not operations.bot_delete or target.bot_id not in bots
    if operation is operations.bot_delete and target.bot_id not in bots:
        return
    stored = await _documents(env, target.bot_id)
    if operation is operations.batch:
        assert stored[OLD] == 2
        assert set(stored) <= {OLD, NEW}
    else:
        assert stored in states
    assert done is None or operation in ENDLESS or stored == (states[1] if done else stored)
    await _assert_indexed(env, target.bot_id)


async def at_rest(env: Environment) -> None:
    async def quiet() -> bool:
        # No process that could hold them is alive.
        await env.stores.db.execute("UPDATE sagas SET lease_until = now() - interval '1 hour'")
        await env.stores.db.execute("UPDATE index_rebuilds SET lease_until = now() - interval '1 hour'")
        await env.stores.db.execute("UPDATE vector_gc SET next_attempt_at = now()")
        left = "SELECT FROM sagas UNION ALL SELECT FROM vector_gc UNION ALL SELECT FROM index_rebuilds"
        return not await env.stores.db.fetch(left)

    async with services_over(env.stores):
        await until(quiet)


async def _documents(env: Environment, bot_id: UUID) -> Counter[tuple[str, ...]]:
    rows = await env.stores.db.fetch(
        """
        SELECT d.chunk_count, array_agg(c.text ORDER BY c.chunk_id) AS texts
        FROM documents d LEFT JOIN document_chunks c ON c.bot_id = $1 AND c.chunk_id >> 16 = d.generation
        WHERE d.bot_id = $1 GROUP BY d.doc_id, d.chunk_count
        """,
        bot_id,
    )
    assert all(row["chunk_count"] == len(row["texts"]) for row in rows)
    (stored,) = await env.stores.db.fetch("SELECT count(*) FROM document_chunks WHERE bot_id = $1", bot_id)
    assert stored["count"] == sum(row["chunk_count"] for row in rows)
    return Counter(tuple(row["texts"]) for row in rows)


async def _assert_indexed(env: Environment, bot_id: UUID) -> None:
    chunks = await env.stores.db.fetch("SELECT chunk_id, text FROM document_chunks WHERE bot_id = $1", bot_id)
    (bot,) = await env.stores.db.fetch("SELECT * FROM bot_registry WHERE bot_id = $1", bot_id)
    collection, index = bot["milvus_collection"] or bot["collection_name"], env.stores.index
    await index.load(collection)
    assert {key async for page in index.scan(collection) for key in page} == {row["chunk_id"] for row in chunks}
    for text in {row["text"] for row in chunks}:
        query = await HashEmbedder(bot["dimension"]).embed_queries([text])
        (hits,) = await index.search_dense(collection, query, 100)
        same = {hit.chunk_id for hit in hits if hit.score > 0.999}
        assert same == {row["chunk_id"] for row in chunks if row["text"] == text}


async def assert_readable(services: Services, target: Target, operation: Operation) -> None:
    """Each document that is read or found is wholly old or wholly new."""
    try:
        for doc_id in target.doc_ids:
            with suppress(DocumentNotFound):
                _, chunks, _ = await services.documents.get(target.bot_id, None, doc_id, 0, 1000)
                assert tuple(chunk.text for chunk in chunks) in VERSIONS
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
    whole = tuple(map(set, VERSIONS))
    if operation is operations.repair:
        assert all(any(texts <= version for version in whole) for texts in by_document.values())
    else:
        assert all(texts in whole for texts in by_document.values())
    assert by_document or operation in (operations.delete_batch, operations.delete_by_filter)
