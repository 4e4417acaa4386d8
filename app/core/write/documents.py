"""Reading, changing and deleting stored documents."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.ports import DocumentPort
from app.core.write.recovery import Recovery
from app.schemas.metadata import METADATA_BYTES
from app.schemas.rows import CHUNKS_PER_GENERATION, Chunk, Document
from app.utils.errors import DocumentChanged, DocumentNotFound, ErrorLocation
from app.utils.failpoints import failpoint


class Documents:
    """All methods raise BotNotFound; those on one document DocumentNotFound too."""

    def __init__(self, bots: Bots, store: DocumentPort, recovery: Recovery) -> None:
        self._bots = bots
        self._store = store
        self._recovery = recovery

    async def get(
        self, bot_id: UUID, account: str | None, doc_id: int, after: int, limit: int
    ) -> tuple[Document, list[Chunk], int | None]:
        """The document, at most ``limit`` of its chunks with keys above ``after``, and where to go on, if there are
        more. Raises DocumentChanged when ``after`` is of a version that was replaced.
        """
        await self._bots.get(bot_id, account)
        found = await self._store.get(bot_id, doc_id, after, limit + 1)
        if found is None:
            raise _not_found(doc_id)
        document, chunks = found
        if after and chunks and chunks[0].chunk_id // CHUNKS_PER_GENERATION != after // CHUNKS_PER_GENERATION:
            changed = "The document was replaced since the page before: begin again, without a cursor."
            raise DocumentChanged(changed, places=[ErrorLocation("query.cursor", changed)])
        page = chunks[:limit]
        return document, page, page[-1].chunk_id if len(chunks) > limit else None

    async def list(
        self, bot_id: UUID, account: str | None, after: int, limit: int
    ) -> tuple[Sequence[Document], int | None]:
        """At most ``limit`` documents above doc_id ``after``, and where to go on, if there are more."""
        await self._bots.get(bot_id, account)
        documents = await self._store.list(bot_id, after, limit + 1)
        page = documents[:limit]
        return page, page[-1].doc_id if len(documents) > limit else None

    async def patch(
        self,
        bot_id: UUID,
        account: str | None,
        doc_id: int,
        fields: Mapping[str, Any],
        metadata: Mapping[str, Any],
        metadata_bytes: int = METADATA_BYTES,
    ) -> datetime:
        """Sets ``fields``, merges ``metadata`` into the document's, and empties or removes what is None.

        Raises MetadataTooLarge, with nothing changed, when metadata would grow above ``metadata_bytes``.
        """
        await self._bots.get(bot_id, account)
        columns = {name: [] if name == "tags" and value is None else value for name, value in fields.items()}
        merge = {key: value for key, value in metadata.items() if value is not None}
        remove = [key for key, value in metadata.items() if value is None]
        updated_at = await self._store.patch(bot_id, doc_id, columns, merge, remove, metadata_bytes)
        if updated_at is None:
            raise _not_found(doc_id)
        return updated_at

    async def delete(self, bot_id: UUID, account: str | None, doc_id: int) -> int:
        """Returns the number of chunks that went with it."""
        deleted = await self.delete_many(bot_id, account, [doc_id])
        if doc_id not in deleted:
            raise _not_found(doc_id)
        return deleted[doc_id]

    async def delete_many(self, bot_id: UUID, account: str | None, doc_ids: Sequence[int]) -> dict[int, int]:
        """{doc_id: number of its chunks} of those that existed. Their vectors follow in a moment."""
        await self._bots.get(bot_id, account)
        await failpoint("delete.before")
        deleted = await self._store.delete(bot_id, doc_ids)
        await failpoint("delete.after")
        if deleted:
            self._recovery.wake()
        return deleted


def _not_found(doc_id: int) -> DocumentNotFound:
    return DocumentNotFound(f"This bot has no document {doc_id}.")
