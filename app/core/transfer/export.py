"""Exports a bot as a stream of bytes: ``app.core.transfer.format``.

Documents are read in pages, each in a snapshot of its own, so that each document is of one moment and the whole is not.
Between two pages nothing is held: a reader may be as slow as it likes. A document that is stored meanwhile is in the
export if its doc_id was not passed yet; that of a new document is the greatest.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

from app.core.embedding.port import Vectors
from app.core.ports import BotPort, DocumentPort, VectorIndex
from app.core.transfer.format import DOCUMENT_TAIL, Manifest, chunk_items, document_head, end_line, manifest_line
from app.schemas.rows import Bot, Chunk, Document
from app.utils.errors import BotNotFound, CollectionMissing, ExportOvertaken

PAGE_DOCUMENTS, PAGE_CHUNKS = 200, 512
"""Of one snapshot. Another document is not begun once a page has so many chunks."""
VECTORS = 512
"""Vectors that are read from Milvus together."""
PIECE_BYTES = 256 << 10
REREADS = 3
"""How often a document is read again whose vectors are gone because it was replaced since it was read."""


@dataclass(slots=True)
class Written:
    """What an export has written so far. An export that goes on begins with it."""

    last_doc_id: int = 0
    documents: int = 0
    chunks: int = 0
    vectors: int = 0
    hash: Any = field(default_factory=sha256)


class Exporter:
    def __init__(self, bots: BotPort, documents: DocumentPort, index: VectorIndex) -> None:
        self._bots = bots
        self._documents = documents
        self._index = index

    async def open(self, bot_id: UUID, account: str | None, *, vectors: bool = True) -> AsyncIterator[bytes]:
        """The export in pieces of some 100 kB, each of whole lines but for those of large documents.

        Raises BotNotFound, and the errors of the first page. The iterator raises Unavailable when a store does not
        answer, and ExportOvertaken when the bot was deleted, or moved to another model while its vectors are exported.
        Then the export has no last line.
        """
        bot = await self._bots.get(bot_id, account)
        if bot is None:
            raise BotNotFound()
        counts = await self._bots.counts(bot_id)
        export = self._export(bot, Written(), vectors=vectors)
        export.pieces.add(manifest_line(uuid4(), datetime.now(UTC), bot, counts, vectors=vectors))
        return await _begun(export.rest())

    async def resume(self, manifest: Manifest, written: Written) -> AsyncIterator[bytes]:
        """The rest of an export that was cut off, of which the lines ``written`` were kept.

        Raises as ``open``, and ExportOvertaken when the export cannot be continued.
        """
        exported = manifest.bot
        bot = await self._bots.get(exported.chat_bot_id, None)
        if bot is None:
            raise BotNotFound()
        begun = replace(
            bot,
            created_at=exported.created_at,
            embedding_model=exported.embedding_model,
            dimension=exported.dimension,
        )
        export = self._export(begun, written, vectors=manifest.vectors)
        await export.now()
        return export.rest()

    def _export(self, bot: Bot, written: Written, *, vectors: bool) -> "_Export":
        return _Export(self._bots, self._documents, self._index, bot, _Pieces(written), vectors=vectors)


class _Export:
    """One export. ``bot``: its row when the export began. ``pieces``: what was exported and not yet passed on."""

    def __init__(
        self,
        bots: BotPort,
        documents: DocumentPort,
        index: VectorIndex,
        bot: Bot,
        pieces: "_Pieces",
        *,
        vectors: bool,
    ) -> None:
        self._bots = bots
        self._documents = documents
        self._index = index
        self._bot = bot
        self._with_vectors = vectors
        self.pieces = pieces

    async def rest(self) -> AsyncIterator[bytes]:
        """Everything after what was written."""
        bot_id, pieces, written = self._bot.bot_id, self.pieces, self.pieces.written
        while page := await self._documents.with_chunks(bot_id, written.last_doc_id, PAGE_DOCUMENTS, PAGE_CHUNKS):
            now = await self.now()
            known = await self._vectors(now, [key for _, chunks in page for key in _first_keys(chunks)])
            for document, chunks in page:
                async for piece in self._document(now, document, chunks, known):
                    yield piece
                written.last_doc_id = document.doc_id
                if pieces.size >= PIECE_BYTES:
                    yield pieces.take()
                    await asyncio.sleep(0)
        await self.now()
        end = end_line(written.documents, written.chunks, written.vectors, written.hash.hexdigest())
        yield pieces.take() + end

    async def _document(
        self, now: Bot, document: Document, chunks: Sequence[Chunk], known: dict[int, Vectors] | None
    ) -> AsyncIterator[bytes]:
        """Adds the document's line. A large document is passed on in parts, and its later vectors are read by then."""
        for _ in range(REREADS):
            if known is None or all(key in known for key in _first_keys(chunks)):
                break
            again = await self._documents.get(self._bot.bot_id, document.doc_id)
            if again is None:
                return  # It was deleted meanwhile.
            if again[1] and chunks and again[1][0].chunk_id == chunks[0].chunk_id:
                break  # It was not replaced: Milvus has lost the vector.
            document, chunks = again[0], again[1]
            now = await self.now()
            known = await self._vectors(now, _first_keys(chunks))
        if not chunks:
            return  # All were lost, as ``verify`` reports.
        pieces = self.pieces
        pieces.add(document_head(document))
        for start in range(0, len(chunks), VECTORS):
            part = chunks[start : start + VECTORS]
            if start:
                if pieces.size >= PIECE_BYTES:
                    yield pieces.take()
                known = await self._vectors(await self.now(), [one.chunk_id for one in part])
                pieces.add(b",")
            pieces.add(chunk_items(part, known))
            pieces.written.vectors += 0 if known is None else sum(one.chunk_id in known for one in part)
        pieces.add(DOCUMENT_TAIL)
        pieces.written.documents += 1
        pieces.written.chunks += len(chunks)

    async def now(self) -> Bot:
        """The bot's row as it is now, whose timestamp is as new as every document that was read.

        Raises ExportOvertaken.
        """
        bot = self._bot
        now = await self._bots.get(bot.bot_id, None)
        if now is None:
            raise ExportOvertaken("The bot was deleted during its export.")
        if now.created_at != bot.created_at:
            raise ExportOvertaken("The bot was deleted during its export, and another one has its chat_bot_id.")
        model = (bot.embedding_model, bot.dimension)
        if self._with_vectors and bot.embedding_model and (now.embedding_model, now.dimension) != model:
            raise ExportOvertaken("The bot was moved to another model during its export.")
        return now

    async def _vectors(self, bot: Bot, keys: Sequence[int]) -> dict[int, Vectors] | None:
        """By chunk_id, those that Milvus has; None in an export without vectors."""
        if not self._with_vectors:
            return None
        found: dict[int, Vectors] = {}
        for start in range(0, len(keys), VECTORS):
            part, timestamp = keys[start : start + VECTORS], bot.milvus_timestamp
            try:
                found |= await self._index.embeddings(bot.milvus_collection, part, guarantee_timestamp=timestamp)
            except CollectionMissing:  # Milvus lost it, or the bot has moved: then ``now`` says so.
                now = await self.now()
                if now.milvus_collection != bot.milvus_collection:
                    return await self._vectors(now, keys)
        return {key: vector for key, vector in found.items() if vector.shape == (bot.dimension,)}


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces. The first one is there already, or its error is raised now."""
    first = await anext(pieces)

    async def chained() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return chained()


def _first_keys(chunks: Sequence[Chunk]) -> list[int]:
    return [chunk.chunk_id for chunk in chunks[:VECTORS]]


class _Pieces:
    """Collects bytes until they are worth a write, and hashes them."""

    def __init__(self, written: Written) -> None:
        self.written = written
        self.size = 0
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)
        self.written.hash.update(part)

    def take(self) -> bytes:
        joined = b"".join(self._parts)
        self._parts, self.size = [], 0
        return joined
