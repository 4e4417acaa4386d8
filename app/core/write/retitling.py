"""Writes the words of documents again whose title was changed, where titles are in the lexical field.

PostgreSQL has the new title already. The chunks are written under a new generation, by the saga: an upsert under the
old keys could be undone by a late write. What a saga writes has the title that the document had when its chunks were
read; whoever changes the title later writes the chunks again after that.
"""

from collections.abc import Sequence
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.ports import DocumentPort, VectorIndex
from app.core.write.saga import Saga
from app.core.write.write import Write
from app.schemas.rows import CHUNKS_PER_GENERATION, Bot, Chunk, Document, NewChunk, NewDocument
from app.utils.errors import BotNotFound, CollectionMissing, DocumentChanged, DocumentNotFound, Unavailable
from app.utils.stopwatch import Stopwatch

MAX_ATTEMPTS = 5
"""Attempts while others replace the same documents."""


class Retitling:
    def __init__(self, bots: Bots, documents: DocumentPort, index: VectorIndex, saga: Saga) -> None:
        self._bots = bots
        self._documents = documents
        self._index = index
        self._saga = saga

    async def write_words(self, bot_id: UUID, doc_ids: Sequence[int]) -> None:
        """Writes the chunks of these documents again, one document after the other; those that are gone are skipped.

        Raises Unavailable when a store or the embedder does not answer: the titles are changed, and the words not. A
        repeated call writes them.
        """
        for doc_id in doc_ids:
            for _ in range(MAX_ATTEMPTS):
                if await self._write_again(bot_id, doc_id):
                    break
            else:
                raise Unavailable("The title was changed, but others replace the document: repeat the call.")

    async def _write_again(self, bot_id: UUID, doc_id: int) -> bool:
        """False if the document was replaced meanwhile."""
        bot = await self._bots.get(bot_id, None)
        # Beside a migration that turns titles on: this row was read after the title was changed, so the migration reads
        # the new title, or copies the new generation.
        if not (bot.title_in_lexical or bot.next_title_in_lexical):
            return True
        found = await self._documents.get(bot_id, doc_id)
        if found is None or not found[1] or not await self._supports_lexical(bot):
            return True
        bot = await self._bots.usable(bot_id, None)
        write = rewrite(bot, *found)
        await self._saga.run([write], Stopwatch())
        if isinstance(write.error, DocumentChanged):
            return False
        if write.error is not None and not isinstance(write.error, DocumentNotFound | BotNotFound):
            raise write.error
        return True

    async def _supports_lexical(self, bot: Bot) -> bool:
        try:
            return await self._index.supports_lexical(bot.milvus_collection)
        except CollectionMissing:
            return True  # The saga starts a rebuild.


def rewrite(bot: Bot, document: Document, chunks: Sequence[Chunk]) -> Write:
    """A write of the document's chunks as they are, which fails when they were replaced meanwhile."""
    new = NewDocument(
        title=document.title,
        chunks=[NewChunk(chunk.chunk_index, chunk.text, chunk.page_number) for chunk in chunks],
        file_path=document.file_path,
        file_type=document.file_type,
        author=document.author,
        tags=document.tags,
        metadata=document.metadata,
    )
    return Write(bot, new, document.doc_id, rewrites=chunks[0].chunk_id // CHUNKS_PER_GENERATION)
