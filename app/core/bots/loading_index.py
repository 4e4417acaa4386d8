"""The vector index whose reads load a collection that is not in Milvus's memory, and are asked again."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from app.core.analyzers.analyzers import NEWEST
from app.core.bots.loads import Loads
from app.core.ports import ChunkIds, Hit, KeyRange, MarkerPort, UnverifiedCollection, VectorIndex, Vectors
from app.utils.errors import CollectionReleased, VectorIndexUnavailable

T = TypeVar("T")

ATTEMPTS: Final = 5
"""Of a read, if its collection is released again after each load."""
LAST_KEY: Final = 2**63 - 1


class LoadingIndex:
    """Implements VectorIndex over another one. Writes, and deletes by key, do not load.

    A read raises CollectionLoading too, where the request's deadline is shorter than the load.
    """

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._index = loads.index

    @property
    def without_loading(self) -> VectorIndex:
        """For work that can wait until the bot is used: its reads raise CollectionReleased.

        Without a bound the servers release no collection, so there its reads load too.
        """
        return self._index if self._loads.enabled else self

    @property
    def marker(self) -> MarkerPort:
        return self._index.marker

    @property
    def bm25(self) -> bool:
        return self._index.bm25

    async def supports_lexical(self, collection: str) -> bool:
        return await self._index.supports_lexical(collection)

    async def create(self, collection: str, dimension: int, *, load: bool = True) -> None:
        await self._index.create(collection, dimension, load=load and not self._loads.enabled)

    async def load(self, collection: str) -> None:
        if self._loads.is_cold(collection):
            await self._loads.ready(collection)

    async def release(self, collection: str) -> None:
        await self._index.release(collection)

    async def loaded(self) -> set[str]:
        return await self._index.loaded()

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        self._loads.forget(collection)
        await self._index.drop(collection, dimension)

    async def collections(self) -> list[str]:
        return await self._index.collections()

    async def upsert(
        self,
        collection: str,
        chunk_ids: ChunkIds,
        doc_ids: ChunkIds,
        embeddings: Vectors,
        texts: Sequence[str] | None = None,
        *,
        analyzer_version: int = NEWEST,
        fresh: bool = False,
    ) -> int:
        return await self._index.upsert(
            collection, chunk_ids, doc_ids, embeddings, texts, analyzer_version=analyzer_version, fresh=fresh
        )

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        await self._index.delete(collection, chunk_ids)

    async def search_dense(
        self,
        collection: str,
        queries: Vectors,
        k: int,
        *,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> list[list[Hit]]:
        search = partial(
            self._index.search_dense,
            collection,
            queries,
            k,
            guarantee_timestamp=guarantee_timestamp,
            doc_ids=doc_ids,
            chunk_ids=chunk_ids,
            exclude_ranges=exclude_ranges,
        )
        return await self._read(collection, search)

    async def search_lexical(
        self,
        collection: str,
        texts: Sequence[str],
        k: int,
        *,
        analyzer_version: int = NEWEST,
        guarantee_timestamp: int = 0,
        doc_ids: Sequence[int] | None = None,
        chunk_ids: Sequence[int] | None = None,
        exclude_ranges: Sequence[KeyRange] = (),
    ) -> list[list[Hit]]:
        search = partial(
            self._index.search_lexical,
            collection,
            texts,
            k,
            analyzer_version=analyzer_version,
            guarantee_timestamp=guarantee_timestamp,
            doc_ids=doc_ids,
            chunk_ids=chunk_ids,
            exclude_ranges=exclude_ranges,
        )
        return await self._read(collection, search)

    async def embeddings(
        self, collection: str, chunk_ids: Sequence[int], *, guarantee_timestamp: int = 0
    ) -> dict[int, Vectors]:
        read = partial(self._index.embeddings, collection, chunk_ids, guarantee_timestamp=guarantee_timestamp)
        return await self._read(collection, read)

    async def present(self, collection: str, ranges: Sequence[KeyRange]) -> set[int]:
        return await self._read(collection, partial(self._index.present, collection, ranges))

    async def scan(
        self, collection: str, *, page: int = 4096, key_range: KeyRange | None = None
    ) -> AsyncIterator[list[int]]:
        pages: AsyncIterator[list[int]] | None = None

        async def next_page() -> list[int] | None:
            """After an error a scan is over, and another one goes on behind its last page."""
            nonlocal pages
            if pages is None:
                pages = self._index.scan(collection, page=page, key_range=key_range)
            try:
                return await anext(pages, None)
            except BaseException:
                pages = None
                raise

        while (keys := await self._read(collection, next_page)) is not None:
            yield keys
            key_range = (keys[-1] + 1, key_range[1] if key_range else LAST_KEY)

    async def unverified_collections(self, claim: float = 0) -> Sequence[UnverifiedCollection]:
        return await self._index.unverified_collections(claim)

    async def finish_verification(self, collection: UnverifiedCollection, *, complete: bool) -> None:
        await self._index.finish_verification(collection, complete=complete)

    async def count(self, collection: str) -> int:
        return await self._read(collection, partial(self._index.count, collection))

    async def ping(self) -> None:
        await self._index.ping()

    async def close(self) -> None:
        await self._loads.close()
        await self._index.close()

    async def _read(self, collection: str, read: Callable[[], Awaitable[T]]) -> T:
        loads = self._loads
        if loads.is_cold(collection):
            await loads.ready(collection)
        for _ in range(ATTEMPTS):
            loads.used(collection)
            try:
                answer = await read()
            except CollectionReleased:
                pass
            except VectorIndexUnavailable:
                # Milvus blocks reads during a load and for some time after it, perhaps longer than a call may take.
                if loads.has_answered(collection) and (not loads.enabled or collection in await self._index.loaded()):
                    raise
            else:
                loads.answered(collection)
                return answer
            await loads.ready(collection, released=True)
        return await read()
