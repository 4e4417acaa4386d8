"""The marker collection in Milvus: which database the collections belong to, and which generations are reserved.

``MilvusIndex.collections`` does not list it, and no bot's collection can have its name.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from pymilvus import AsyncMilvusClient

from app.core.stores.milvus.collections import MilvusCollections
from app.core.stores.milvus.driver import with_deadline
from app.schemas import milvus as schema
from app.schemas.operation_rows import GenerationBlock, Reservation
from app.schemas.rows import CHUNKS_PER_GENERATION, MAX_GENERATION
from app.utils.errors import CollectionMissing, VectorIndexUnavailable

T = TypeVar("T")

PAGE: Final = 1_000
CREATE_SECONDS: Final = 60.0


class Read(Protocol):
    """``MilvusMemory.read_loading``: sends a request and loads the collection first if it is not in memory."""

    async def __call__(self, collection: str, request: Callable[[], Awaitable[T]]) -> T: ...


class MilvusMarker:
    """Implements MarkerPort."""

    def __init__(self, client: AsyncMilvusClient, collections: MilvusCollections, read: Read, timeout: float) -> None:
        self._client = client
        self._collections = collections
        self._read = read
        self._timeout = timeout

    async def read(self) -> list[Reservation]:
        found: dict[UUID, Reservation] = {}
        after = -1
        while True:
            try:
                rows = await self._read(schema.MARKER, partial(self._page, after))
            except CollectionMissing:
                return []
            for row in rows:
                reservation = _reservation(row)
                found[reservation.block.block_id] = reservation
            if len(rows) < PAGE:  # Rows are never replaced, so a short page is the last one.
                return sorted(found.values(), key=lambda one: one.block.last)
            after = max(row[schema.MARKER_KEY] for row in rows)

    async def add(self, reservations: Sequence[Reservation]) -> None:
        rows = [_row(one) for one in reservations]
        insert = partial(self._client.insert, schema.MARKER, rows, timeout=self._timeout)
        try:
            await with_deadline(self._timeout, insert)
        except CollectionMissing:
            await with_deadline(CREATE_SECONDS, self._create)
            try:
                await with_deadline(self._timeout, insert)
            except CollectionMissing as exc:
                raise VectorIndexUnavailable("The marker was dropped while it was created.") from exc

    async def bot_collections(self) -> list[str]:
        names = await with_deadline(self._timeout, partial(self._client.list_collections, timeout=self._timeout))
        return [name for name in sorted(names) if name != schema.MARKER and await self._is_bot_collection(name)]

    async def greatest_key(self, collection: str, above: int) -> int:
        """One query if no key is greater, as usual; else a binary search."""
        if (found := await self._any_key(collection, above)) is None:
            return above
        beyond = (MAX_GENERATION + 1) * CHUNKS_PER_GENERATION  # Greater than every key.
        while beyond - found > 1:
            middle = (found + beyond) // 2
            key = await self._any_key(collection, middle - 1)
            found, beyond = (found, middle) if key is None else (key, beyond)
        return found

    async def _any_key(self, collection: str, above: int) -> int | None:
        query = partial(
            self._client.query,
            collection,
            filter=f"{schema.CHUNK_ID} > {above}",
            output_fields=[schema.CHUNK_ID],
            limit=1,
            timeout=self._timeout,
        )
        try:
            rows = await self._read(collection, query)
        except CollectionMissing:
            return None
        return int(rows[0][schema.CHUNK_ID]) if rows else None

    async def _page(self, after: int) -> Sequence[Mapping[str, Any]]:
        beyond = f"{schema.MARKER_KEY} > {after}"
        return await self._collections.first_rows(schema.MARKER, beyond, schema.MARKER_FIELDS, PAGE)

    async def _create(self) -> None:
        """Idempotent, also when several processes call it at once."""
        await self._collections.create(schema.MARKER, schema.marker_schema())
        await self._collections.create_index(schema.MARKER, schema.EMBEDDING)
        await self._client.load_collection(schema.MARKER, timeout=CREATE_SECONDS)

    async def _is_bot_collection(self, name: str) -> bool:
        description = await with_deadline(self._timeout, partial(self._collections.describe, name))
        dimension = schema.described_dimension(description) if description else None
        return description is not None and dimension is not None and schema.is_ours(description, None, dimension)


def _row(one: Reservation) -> dict[str, Any]:
    return {
        schema.MARKER_KEY: one.block.block_id.int >> 65,
        "block_id": str(one.block.block_id),
        "first_generation": one.block.first,
        "last_generation": one.block.last,
        "installation_id": str(one.installation_id),
        "database_name": one.database,
        "takes_over": int(one.takes_over),
        schema.EMBEDDING: [1.0, 0.0],
    }


def _reservation(row: Mapping[str, Any]) -> Reservation:
    block = GenerationBlock(UUID(row["block_id"]), int(row["first_generation"]), int(row["last_generation"]))
    return Reservation(block, UUID(row["installation_id"]), str(row["database_name"]), bool(row["takes_over"]))
