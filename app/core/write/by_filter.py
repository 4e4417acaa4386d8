"""Deletes or patches all documents that pass a filter, in parts.

The documents are chosen once, at the beginning: those that start to pass later are left alone, and a PATCH that changes
what the filter tests still ends. Each part is a transaction in which every document must still pass. A call that was
cut off is repeated as it is: what it has deleted is gone, and what it has patched is found unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from app.core.bots.bots import Bots
from app.core.ports import DocumentPort
from app.core.write.documents import Documents
from app.core.write.listing import as_stored
from app.schemas.filter_tree import Filter
from app.schemas.metadata import METADATA_BYTES
from app.utils.errors import ErrorLocation, TooManyDocuments

PART = 200
"""Documents in one transaction. One may have 65,536 chunks, which are deleted with it."""


@dataclass(frozen=True, slots=True)
class DeletedByFilter:
    """``matching``: documents that passed at the beginning. ``chunks``: {doc_id: number of chunks} of those deleted."""

    matching: int
    chunks: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PatchedByFilter:
    """``matching``: documents that passed at the beginning; the others are doc_ids, as in ``PatchedDocuments``."""

    matching: int
    changed: Sequence[int] = ()
    unchanged: Sequence[int] = ()
    too_large: Sequence[int] = ()


class ByFilter:
    """All methods raise BotNotFound, and TooManyDocuments, with nothing done, when more than ``most`` documents pass.

    A later error leaves the parts before it done. ``dry_run``: only counts.
    """

    def __init__(self, bots: Bots, store: DocumentPort, documents: Documents, part: int = PART) -> None:
        self._bots = bots
        self._store = store
        self._documents = documents
        self._part = part

    async def delete(
        self, bot_id: UUID, account: str | None, where: Filter, most: int, *, dry_run: bool = False
    ) -> DeletedByFilter:
        """Deletes the documents that pass, and soon their vectors."""
        doc_ids = await self._matching(bot_id, account, where, most)
        deleted: dict[int, int] = {}
        for part in () if dry_run else self._parts(doc_ids):
            deleted |= await self._documents.delete_many(bot_id, account, part, where)
        return DeletedByFilter(len(doc_ids), deleted)

    async def patch(
        self,
        bot_id: UUID,
        account: str | None,
        where: Filter,
        fields: Mapping[str, Any],
        metadata: Mapping[str, Any],
        most: int,
        metadata_bytes: int = METADATA_BYTES,
        *,
        dry_run: bool = False,
    ) -> PatchedByFilter:
        """Patches the documents that pass, as ``Documents.patch`` patches one."""
        doc_ids = await self._matching(bot_id, account, where, most)
        done = [
            await self._documents.patch_many(bot_id, account, part, fields, metadata, where, metadata_bytes)
            for part in (() if dry_run else self._parts(doc_ids))
        ]
        changed, unchanged, too_large = ([doc_id for part in done for doc_id in part[of]] for of in range(3))
        return PatchedByFilter(len(doc_ids), changed, unchanged, too_large)

    async def _matching(self, bot_id: UUID, account: str | None, where: Filter, most: int) -> Sequence[int]:
        bot = await self._bots.get(bot_id, account)
        doc_ids = await self._store.matching_documents(bot_id, as_stored(where, bot), 0, most + 1)
        if len(doc_ids) > most:
            detail = f"The filter matches more than {most:,} documents; nothing was done."
            raise TooManyDocuments(detail, locations=[ErrorLocation("body.max_documents", detail)])
        return doc_ids

    def _parts(self, doc_ids: Sequence[int]) -> list[Sequence[int]]:
        return [doc_ids[start : start + self._part] for start in range(0, len(doc_ids), self._part)]
