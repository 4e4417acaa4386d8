"""Reads, patches and deletes stored documents."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.ports import DocumentPort
from app.core.write.listing import as_stored
from app.core.write.recovery import Recovery
from app.core.write.retitling import Retitling
from app.schemas.filter_tree import Filter
from app.schemas.metadata import METADATA_BYTES
from app.schemas.rows import CHUNKS_PER_GENERATION, Chunk, Document, PatchedDocuments
from app.schemas.versions import DocumentVersion, Precondition
from app.utils.errors import ChunkNotFound, DocumentChanged, DocumentNotFound, ErrorLocation
from app.utils.failpoints import failpoint


class Documents:
    """All methods raise BotNotFound; those on one document also DocumentNotFound."""

    def __init__(self, bots: Bots, store: DocumentPort, recovery: Recovery, retitling: Retitling) -> None:
        self._bots = bots
        self._store = store
        self._recovery = recovery
        self._retitling = retitling

    async def get(
        self, bot_id: UUID, account: str | None, doc_id: int, after: int, limit: int
    ) -> tuple[Document, list[Chunk], int | None]:
        """The document, at most ``limit`` of its chunks with keys above ``after``, and the next ``after``.

        The next one is None on the last page. Raises DocumentChanged when ``after`` belongs to a replaced version.
        """
        await self._bots.get(bot_id, account)
        found = await self._store.get(bot_id, doc_id, after, limit + 1)
        if found is None:
            raise _not_found(doc_id)
        document, chunks = found
        if after and chunks and chunks[0].chunk_id // CHUNKS_PER_GENERATION != after // CHUNKS_PER_GENERATION:
            changed = "The document was replaced since the previous page: start again without a cursor."
            raise DocumentChanged(changed, locations=[ErrorLocation("query.cursor", changed)])
        page = chunks[:limit]
        return document, page, page[-1].chunk_id if len(chunks) > limit else None

    async def chunk(
        self, bot_id: UUID, account: str | None, doc_id: int, chunk_index: int
    ) -> tuple[DocumentVersion, Chunk]:
        """The document's version, and its chunk with this index. Raises ChunkNotFound if it has none."""
        await self._bots.get(bot_id, account)
        found = await self._store.chunk(bot_id, doc_id, chunk_index)
        if found is None:
            raise _not_found(doc_id)
        version, chunk = found
        if chunk is None:
            raise ChunkNotFound(f"The document has no chunk {chunk_index}.")
        return version, chunk

    async def doc_id_of(self, bot_id: UUID, account: str | None, external_id: str) -> int:
        """The document with this external_id. Raises DocumentNotFound if there is none."""
        await self._bots.get(bot_id, account)
        doc_id = (await self._store.external_ids(bot_id, [external_id]))[external_id].doc_id
        if doc_id is None:
            raise DocumentNotFound("This bot has no document with this external_id.")
        return doc_id

    async def list(
        self, bot_id: UUID, account: str | None, after: int, limit: int
    ) -> tuple[Sequence[Document], int | None]:
        """At most ``limit`` documents with doc_ids above ``after``, and the next ``after``; None on the last page."""
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
        precondition: Precondition | None = None,
    ) -> DocumentVersion:
        """Sets ``fields`` and merges ``metadata`` into the document's; None empties a field or removes a key.

        A new title is also written to the words of the chunks, where the bot's words have titles. Returns the version
        that this call made, which another one may have followed already. Raises, with nothing changed, MetadataTooLarge
        when metadata would become larger than ``metadata_bytes``, and PreconditionFailed; and the errors of
        ``Retitling.write_words``.
        """
        await self._bots.get(bot_id, account)
        version = await self._store.patch(bot_id, doc_id, *_changes(fields, metadata), metadata_bytes, precondition)
        if version is None:
            raise _not_found(doc_id)
        if "title" not in fields:
            return version
        written = await self._retitling.write_words(bot_id, [doc_id])
        # Where others have changed the document in between, its newest version has more than this call knows of.
        return written.get(version, version)

    async def patch_many(
        self,
        bot_id: UUID,
        account: str | None,
        doc_ids: Sequence[int],
        fields: Mapping[str, Any],
        metadata: Mapping[str, Any],
        where: Filter | None,
        metadata_bytes: int = METADATA_BYTES,
    ) -> PatchedDocuments:
        """As ``patch``, for documents that exist and pass the filter. One that is too large fails alone."""
        bot = await self._bots.get(bot_id, account)
        await failpoint("patch_many.before")
        patched = await self._store.patch_many(
            bot_id, doc_ids, *_changes(fields, metadata), as_stored(where, bot), metadata_bytes
        )
        await failpoint("patch_many.after")
        if "title" in fields:  # A call that was cut off finds its titles unchanged.
            await self._retitling.write_words(bot_id, [*patched.changed, *patched.unchanged])
        return patched

    async def delete(
        self, bot_id: UUID, account: str | None, doc_id: int, precondition: Precondition | None = None
    ) -> int:
        """Deletes the document; returns the number of its chunks. Raises PreconditionFailed."""
        deleted = await self.delete_many(bot_id, account, [doc_id], precondition=precondition)
        if doc_id not in deleted:
            raise _not_found(doc_id)
        return deleted[doc_id]

    async def delete_many(
        self,
        bot_id: UUID,
        account: str | None,
        doc_ids: Sequence[int],
        where: Filter | None = None,
        precondition: Precondition | None = None,
    ) -> dict[int, int]:
        """Deletes those of the documents that exist and pass the filter, and soon their vectors.

        Returns {doc_id: number of its chunks}. Raises PreconditionFailed as ``DocumentPort.delete``.
        """
        bot = await self._bots.get(bot_id, account)
        await failpoint("delete.before")
        deleted = await self._store.delete(bot_id, doc_ids, as_stored(where, bot), precondition)
        await failpoint("delete.after")
        if deleted:
            self._recovery.wake()
        return deleted


def _changes(
    fields: Mapping[str, Any], metadata: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What a PATCH sets, merges into metadata and removes from it, as the store takes it."""
    columns = {name: [] if name == "tags" and value is None else value for name, value in fields.items()}
    merge = {key: value for key, value in metadata.items() if value is not None}
    return columns, merge, [key for key, value in metadata.items() if value is None]


def _not_found(doc_id: int) -> DocumentNotFound:
    return DocumentNotFound(f"This bot has no document {doc_id}.")
