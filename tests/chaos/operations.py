"""The operations of the service, each small enough to run once for every fail point that it passes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from msgspec.structs import replace as replace_fields

from app.api.imports import ExportLines
from app.api.limits import Limits
from app.api.stream_lines import DocumentLines
from app.config import Settings
from app.core.bots.bots import NewBot
from app.core.bots.loads import Loads
from app.core.commands import model_migrator_over
from app.core.connect import Stores
from app.core.search.query import Query
from app.core.services import Services
from app.core.stores.postgres.bots import BotStore
from app.core.stores.postgres.garbage import GarbageStore
from app.core.stores.postgres.loads import LoadStore
from app.core.stores.postgres.model_migrations import ModelMigrationStore
from app.core.stores.postgres.rebuild import RebuildStore
from app.core.stores.postgres.writes import WriteStore
from app.core.transfer.streams import BATCH_CHUNKS
from app.core.write.chunk_edits import ChunkEdit, DeleteChunk, InsertChunk, ReplaceChunk
from app.core.write.write import Write
from app.schemas.filter_tree import Column, Condition
from app.schemas.rows import CHUNKS_PER_GENERATION, NewChunk, NewDocument
from app.schemas.stream_rows import PartName
from app.utils.errors import AppError
from app.utils.failpoints import install
from app.utils.stopwatch import Stopwatch
from tests.chaos.chunk_text import UNEMBEDDABLE
from tests.doubles.hash_embedder import HashEmbedder
from tests.exports import encoded, export_of

HAS_TITLE = Condition("eq", Column("title"), "title")
OLD, NEW = ("old one", "old two", "old three"), ("new one", "old two")
EDITED, LONGER, SHORTER = ("new one", *OLD[1:]), (*OLD, "new one"), OLD[:-1]
VERSIONS = (OLD, NEW, EDITED, LONGER, SHORTER)
"""All that a document of the target may be."""
ACCOUNT = "chatty"


@dataclass(frozen=True)
class Target:
    """``bot_id`` exists with the documents ``doc_ids``, each of the texts OLD; ``new_bot_id`` does not."""

    bot_id: UUID
    doc_ids: tuple[int, ...]
    new_bot_id: UUID


Operation = Callable[[Services, Stores, Target], Awaitable[object]]


def document(texts: tuple[str, ...]) -> NewDocument:
    return NewDocument("title", [NewChunk(number, text) for number, text in enumerate(texts)])


def new_bot(bot_id: UUID) -> NewBot:
    return NewBot(bot_id, "bot", f"m_{bot_id.hex}", ACCOUNT)


def query(bot_id: UUID, text: str) -> Query:
    return Query(bot_id, None, [text], limit=100)


async def insert(services: Services, stores: Stores, target: Target) -> object:
    return await services.ingest.insert(target.bot_id, None, document(NEW), Stopwatch())


async def insert_restored(services: Services, stores: Stores, target: Target) -> object:
    """The first write after a restore of PostgreSQL, which reserves a new block of generations."""
    await stores.db.execute("UPDATE installation SET written_by = '3'")
    return await insert(services, stores, target)


async def insert_unembeddable(services: Services, stores: Stores, target: Target) -> object:
    return await services.ingest.insert(target.bot_id, None, document((*NEW, UNEMBEDDABLE)), Stopwatch())


async def batch(services: Services, stores: Stores, target: Target) -> object:
    outcomes = await services.ingest.insert_many(None, [(target.bot_id, document(NEW))] * 3, Stopwatch())
    for outcome in outcomes:
        if outcome.error:
            raise outcome.error
    return outcomes


async def replace(services: Services, stores: Stores, target: Target) -> object:
    return await services.ingest.replace(target.bot_id, None, target.doc_ids[0], document(NEW), Stopwatch())


async def upsert(services: Services, stores: Stores, target: Target) -> object:
    """An insert under an external_id that nobody has, or that its own first attempt has."""
    new = replace_fields(document(NEW), external_id="external")
    return await services.ingest.insert(target.bot_id, None, new, Stopwatch(), on_conflict="replace")


async def upsert_existing(services: Services, stores: Stores, target: Target) -> object:
    """An insert under the external_id of the first document."""
    await stores.db.execute("UPDATE documents SET external_id = 'existing' WHERE doc_id = $1", target.doc_ids[0])
    new = replace_fields(document(NEW), external_id="existing")
    return await services.ingest.insert(target.bot_id, None, new, Stopwatch(), on_conflict="replace")


async def edit_chunk(services: Services, stores: Stores, target: Target) -> object:
    return await _edit(services, target, ReplaceChunk(0, EDITED[0], None))


async def insert_chunk(services: Services, stores: Stores, target: Target) -> object:
    return await _edit(services, target, InsertChunk(None, LONGER[-1], None))


async def delete_chunk(services: Services, stores: Stores, target: Target) -> object:
    return await _edit(services, target, DeleteChunk(len(SHORTER)))


async def _edit(services: Services, target: Target, edit: ChunkEdit) -> object:
    return await services.ingest.edit_chunks(target.bot_id, None, target.doc_ids[0], edit, Stopwatch())


async def delete(services: Services, stores: Stores, target: Target) -> object:
    return await services.documents.delete(target.bot_id, None, target.doc_ids[0])


async def delete_batch(services: Services, stores: Stores, target: Target) -> object:
    return await services.documents.delete_many(target.bot_id, None, target.doc_ids)


async def delete_by_filter(services: Services, stores: Stores, target: Target) -> object:
    return await services.by_filter.delete(target.bot_id, None, HAS_TITLE, 100)


async def patch_by_filter(services: Services, stores: Stores, target: Target) -> object:
    """It changes what it filters by."""
    return await services.by_filter.patch(target.bot_id, None, HAS_TITLE, {"title": "patched"}, {}, 100)


class _Lines(DocumentLines):
    """Two batches of one document."""

    def read(self, number: int, line: bytes | None) -> tuple[UUID, NewDocument] | AppError:
        return self._bot_id, document(NEW)

    def chunks(self, content: tuple[UUID, NewDocument]) -> int:
        return BATCH_CHUNKS


async def stream(services: Services, stores: Stores, target: Target) -> object:
    """A part of two lines, each a batch of its own."""

    async def body() -> AsyncIterator[bytes]:
        yield b"{}\n{}\n"

    handler = _Lines(services.ingest, target.bot_id, None, Limits(), "error")
    name = PartName(target.bot_id, target.new_bot_id.hex, 1)
    loading = await services.streams.load(name, None, body(), handler, 1_000)
    return [results async for results in loading.run()]


class _ExportLines(ExportLines):
    """As ``_Lines``."""

    def chunks(self, content: NewDocument) -> int:
        return BATCH_CHUNKS


async def import_lines(services: Services, stores: Stores, target: Target) -> object:
    """An export of two documents, one with vectors."""
    vectors = await HashEmbedder().embed_documents(NEW)
    chunks = [{"chunk_index": number, "text": text} for number, text in enumerate(NEW)]
    with_vectors = [chunk | {"vector": encoded(vector)} for chunk, vector in zip(chunks, vectors, strict=True)]
    documents = [{"document": {"title": "title"}, "chunks": one} for one in (chunks, with_vectors)]
    content = export_of(target.bot_id, documents, HashEmbedder.model, HashEmbedder().dimension)

    async def body() -> AsyncIterator[bytes]:
        yield content

    handler = _ExportLines(services.importer, target.bot_id, None, Limits(), "error", vectors=True)
    name = PartName(target.bot_id, target.new_bot_id.hex, 1)
    loading = await services.streams.load(name, None, body(), handler, 10_000)
    results = [some async for some in loading.run()]
    assert handler.torn is None
    return results


async def cold_start(services: Services, stores: Stores, target: Target) -> object:
    """The bot is released by a server that may have none loaded, and loaded again."""
    await stores.db.execute("DELETE FROM collection_loads")
    collection = (await services.bots.get(target.bot_id, None)).milvus_collection
    await stores.index.load(collection)
    loads = Loads(stores.index, LoadStore(stores.db), GarbageStore(stores.db), bound=0, idle=0)
    while collection in await stores.index.loaded():
        await loads.run_round()
    loads.bound = 1
    try:
        await loads.ready(collection)
    finally:
        await loads.close()
    return None


async def synchronize(services: Services, stores: Stores, target: Target) -> object:
    """The documents of the target have no external_id, and stay."""
    await stores.db.execute("UPDATE sync_sessions SET lease_until = now() - interval '1 hour'")
    session = await services.sync.start(target.bot_id, None)
    named = NewDocument("title", document(NEW).chunks, external_id="new")
    await services.sync.batch(target.bot_id, None, session, [(target.bot_id, named)], Stopwatch())
    return await services.sync.finish(target.bot_id, None, session, delete_missing=True)


async def repair(services: Services, stores: Stores, target: Target) -> object:
    """A vector is lost, and the document is written again."""
    first = target.doc_ids[0] * CHUNKS_PER_GENERATION
    await stores.index.delete(new_bot(target.bot_id).collection_name, [first])
    return [finding async for finding in services.repairer.repair_bot(target.bot_id)]


async def rebuild(services: Services, stores: Stores, target: Target) -> object:
    """A vector is lost, and the loops of every server restore it."""
    first = target.doc_ids[0] * CHUNKS_PER_GENERATION
    collection = (await services.bots.get(target.bot_id, None)).milvus_collection
    await stores.index.delete(collection, [first])
    await RebuildStore(stores.db).begin_in_place(target.bot_id, collection)
    await asyncio.Event().wait()
    return None


async def detect_loss(services: Services, target: Target) -> None:
    """Searches, so that the loss is detected. The answer is checked by other tests."""
    with suppress(AppError):
        await services.search.query(query(target.bot_id, OLD[0]), Stopwatch())


async def rebuild_lost(services: Services, stores: Stores, target: Target) -> object:
    """The bot's collection is lost, and the next search detects it."""
    await stores.index.drop((await services.bots.get(target.bot_id, None)).milvus_collection)
    await detect_loss(services, target)
    await asyncio.Event().wait()
    return None


async def bot_create(services: Services, stores: Stores, target: Target) -> object:
    return await services.bots.create(new_bot(target.new_bot_id))


async def bot_delete(services: Services, stores: Stores, target: Target) -> object:
    return await services.bots.delete(target.bot_id, None)


async def collect(services: Services, stores: Stores, target: Target) -> object:
    """The vectors of a replaced version are collected by the loop of every server."""
    await replace(services, stores, target)
    await asyncio.Event().wait()
    return None


async def recover_write(services: Services, stores: Stores, target: Target) -> object:
    """A write whose process died after T1, with an expired lease."""
    bot = await services.bots.get(target.bot_id, None)
    rows = [Write(bot, document(NEW)).to_row()]
    await WriteStore(stores.db, stores.late_write_window).begin(rows, uuid4(), timedelta(0))
    await asyncio.Event().wait()
    return None


async def recover_bot(services: Services, stores: Stores, target: Target) -> object:
    """A bot whose process died before its collection was created."""
    bot = new_bot(target.new_bot_id)
    names = (bot.bot_name, bot.collection_name, bot.account_name)
    await BotStore(stores.db, stores.late_write_window).insert(bot.bot_id, *names, uuid4(), timedelta(0))
    await asyncio.Event().wait()
    return None


class NextEmbedder(HashEmbedder):
    """The model that bots are migrated to."""

    model = "next"

    def __init__(self) -> None:
        super().__init__(32)


async def reembed(services: Services, stores: Stores, target: Target) -> object:
    async with model_migrator_over(_settings(5), stores, NextEmbedder()) as migrator:
        return await migrator.run(target.bot_id)


async def reembed_abort(services: Services, stores: Stores, target: Target) -> object:
    """Aborts a migration that was interrupted."""
    await ModelMigrationStore(stores.db, stores.late_write_window).begin(
        target.bot_id, NextEmbedder.model, NextEmbedder().dimension
    )
    async with model_migrator_over(_settings(5), stores, None) as migrator:
        return await migrator.abort(target.bot_id)


async def reembed_drop(services: Services, stores: Stores, target: Target) -> object:
    """The old collection is dropped by the loop of every server."""
    async with model_migrator_over(_settings(1), stores, NextEmbedder()) as migrator:
        await migrator.run(target.bot_id)
    await asyncio.Event().wait()
    return None


async def overtaken(services: Services, stores: Stores, target: Target) -> object:
    """An insert whose bot is migrated to another model between its vectors and T2."""
    removers: list[Callable[[], None]] = []

    async def overtake(point: str) -> None:
        if point == "write.before_t2" and removers:
            removers.pop()()
            await reembed(services, stores, target)

    removers.append(install(overtake))
    return await insert(services, stores, target)


def _settings(lease: float) -> Settings:
    return Settings(_env_file=None, saga_lease_seconds=lease)  # type: ignore[call-arg]


_WRITE = tuple(f"write.{when}_{step}" for step in ("t1", "embed", "upsert", "t2") for when in ("before", "after"))
PASSES: dict[Operation, tuple[str, ...]] = {
    insert: _WRITE,
    insert_restored: ("generations.before_reserve", "generations.after_reserve", "generations.after_use"),
    batch: _WRITE,
    replace: ("write.before_carry", *_WRITE),
    upsert: ("write.after_t1", "write.before_t2", "write.after_t2"),
    upsert_existing: ("write.before_carry", "write.before_t2", "write.after_t2"),
    insert_chunk: ("write.before_t2",),
    delete_chunk: ("write.before_t2",),
    edit_chunk: ("write.before_carry", "write.before_t2", "write.after_t2"),
    insert_unembeddable: ("write.before_compensate", "write.after_compensate"),
    delete: ("delete.before", "delete.after"),
    delete_batch: ("delete.before", "delete.after"),
    delete_by_filter: ("delete.before", "delete.after"),
    patch_by_filter: ("patch_many.before", "patch_many.after"),
    stream: ("write.after_t1", "write.before_t2", "write.after_t2", "stream.after_lines"),
    import_lines: ("write.after_t1", "write.after_t2", "stream.after_lines"),
    cold_start: ("release.before", "release.after", "load.before", "load.after"),
    synchronize: ("sync.after_found", "sync.before_delete", "sync.after_delete"),
    repair: ("repair.before", *_WRITE, "repair.after"),
    rebuild: ("rebuild.before_upsert", "rebuild.after_upsert", "rebuild.before_finish", "rebuild.after_finish"),
    rebuild_lost: (
        "rebuild.before_collection",
        "rebuild.after_collection",
        "rebuild.after_switch",
        "rebuild.before_upsert",
        "rebuild.after_upsert",
        "rebuild.before_finish",
        "rebuild.after_finish",
    ),
    bot_create: (
        "bot_create.before_register",
        "bot_create.after_register",
        "bot_create.before_collection",
        "bot_create.after_collection",
        "bot_create.after_finish",
    ),
    bot_delete: (
        "bot_delete.before_mark",
        "bot_delete.after_mark",
        "bot_delete.before_drop",
        "bot_delete.after_drop",
        "bot_delete.after_partitions",
    ),
    reembed: (
        "reembed.before_begin",
        "reembed.after_begin",
        "reembed.after_collection",
        "reembed.before_upsert",
        "reembed.after_upsert",
        "reembed.before_switch",
        "reembed.in_switch",
        "reembed.after_switch",
    ),
    reembed_abort: ("reembed.before_abort", "reembed.after_abort"),
    reembed_drop: ("drop_collection.before", "drop_collection.after"),
    overtaken: ("write.before_restart", "write.after_restart"),
    collect: ("gc.after_claim", "gc.before_delete", "gc.after_delete", "gc.before_end", "gc.after_end"),
    recover_write: ("recovery.before_compensate", "recovery.after_compensate"),
    recover_bot: ("recovery.after_claim",),
}
"""The fail points that each operation passes."""
BY_PARTS = (stream, import_lines)
"""What these have stored stays, and a repeat does the rest."""
ENDLESS = (collect, recover_write, recover_bot, reembed_drop, rebuild, rebuild_lost)
"""Operations whose work is done by the loops of the server."""
REBUILDS = (rebuild, rebuild_lost)
"""Until these are done, searches are refused. Afterwards only the name of the collection may have changed."""
MIGRATIONS = (reembed, reembed_drop, overtaken)
"""After these, possibly repeated, the bot has the next model."""
EXPECTED: dict[Operation, tuple[dict[tuple[str, ...], int], dict[tuple[str, ...], int]]] = {
    insert: ({OLD: 2}, {OLD: 2, NEW: 1}),
    insert_restored: ({OLD: 2}, {OLD: 2, NEW: 1}),
    batch: ({OLD: 2}, {OLD: 2, NEW: 3}),
    replace: ({OLD: 2}, {OLD: 1, NEW: 1}),
    upsert: ({OLD: 2}, {OLD: 2, NEW: 1}),
    upsert_existing: ({OLD: 2}, {OLD: 1, NEW: 1}),
    insert_chunk: ({OLD: 2}, {OLD: 1, LONGER: 1}),
    delete_chunk: ({OLD: 2}, {OLD: 1, SHORTER: 1}),
    edit_chunk: ({OLD: 2}, {OLD: 1, EDITED: 1}),
    delete: ({OLD: 2}, {OLD: 1}),
    delete_batch: ({OLD: 2}, {}),
    delete_by_filter: ({OLD: 2}, {}),
    stream: ({OLD: 2}, {OLD: 2, NEW: 2}),
    import_lines: ({OLD: 2}, {OLD: 2, NEW: 2}),
    synchronize: ({OLD: 2}, {OLD: 2, NEW: 1}),
    collect: ({OLD: 2}, {OLD: 1, NEW: 1}),
    overtaken: ({OLD: 2}, {OLD: 2, NEW: 1}),
}
"""How many documents with which texts the bot has before and after. With the other operations, OLD stays twice."""
