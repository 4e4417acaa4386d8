"""The vector index on Milvus: a server, standalone or distributed, or the Milvus Lite process.

It uses two clients. ``AsyncMilvusClient`` makes almost all calls. The blocking ``MilvusClient`` runs in a small pool of
threads for two calls that are wrong in the async client of pymilvus 3.0.2: ``delete`` ignores the status it gets, and
``create_index`` waits with a call that Milvus Lite does not have.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, Self, TypeVar

import numpy as np
from pymilvus import AsyncMilvusClient, MilvusClient, MilvusException

from app.core.analyzers.analyzers import NEWEST
from app.core.ports import DELETE_KEYS, Analyzer, ChunkIds, Hit, KeyRange, UnverifiedCollection, Vectors
from app.core.stores.address import MilvusTls
from app.core.stores.milvus.collections import MilvusCollections
from app.core.stores.milvus.driver import (
    RECONNECT,
    finish_verification,
    mute_pymilvus,
    send_write,
    unverified_collections,
    with_deadline,
)
from app.core.stores.milvus.marker import MilvusMarker
from app.core.stores.milvus.memory import MilvusMemory
from app.core.stores.milvus.packing import insert_request, request_slices
from app.core.stores.milvus.refusal import MissingPrivileges, check_privileges, has_credentials, refusal
from app.core.stores.milvus.search import MilvusSearch, SearchScope
from app.schemas import milvus as schema
from app.utils.errors import CollectionForeign, StartupError, VectorIndexUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

CREATE_SECONDS: Final = 60.0
"""Timeout for creating, indexing and loading a collection, which takes 3 s on an idle server."""

LATE_WRITE_SLACK_SECONDS: Final = 5.0
"""See ``late_write_window_seconds``."""

REFUSED_SECONDS: Final = 2.0
"""How long a refusal must last before it counts: while Milvus starts, its proxy refuses every token."""


class CollectionInfo(NamedTuple):
    """What the index caches about a collection."""

    dimension: int
    supports_lexical: bool


class MilvusIndex:
    """Implements VectorIndex. It belongs to the event loop in which it was connected; concurrent calls are safe."""

    def __init__(
        self, client: AsyncMilvusClient, blocking: MilvusClient, timeout: float, version: str, analyzer: Analyzer
    ) -> None:
        self._client = client
        self._blocking = blocking
        self._timeout = timeout
        self._analyzer = analyzer
        self._bm25 = schema.has_bm25(version)
        self._lite = schema.is_lite(version)
        self._memory = MilvusMemory(client, timeout)
        self._search = MilvusSearch(client, self._memory.read, timeout, analyzer)
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="milvus")
        self._collections = MilvusCollections(client, blocking, self._threads, timeout)
        self.marker = MilvusMarker(client, self._collections, self._memory.read_loading, timeout)
        self._infos: dict[str, CollectionInfo] = {}

    @classmethod
    async def connect(
        cls,
        uri: str,
        token: str = "",
        *,
        analyzer: Analyzer,
        database: str = "",
        tls: MilvusTls | None = None,
        timeout: float = 10.0,
        wait: float = 30.0,
        releases: bool = False,
    ) -> Self:
        """Connects to ``uri`` (http://host:19530, https:// for TLS, or unix:/path of Milvus Lite).

        ``analyzer``: prepares texts for the lexical field. ``timeout``: seconds each later call may take. ``wait``:
        seconds to keep trying while the server is unavailable. ``releases``: the user must be allowed to release
        collections. Raises VectorIndexUnavailable after that, and StartupError for an invalid URI and for what waiting
        does not solve: a refused token, missing privileges, a missing database, a certificate.
        """
        mute_pymilvus()
        options = {"token": token, "db_name": database, **(tls or MilvusTls()).options()}
        now = time.monotonic()
        deadline, refused_until = now + wait, now + min(wait, REFUSED_SECONDS)
        while True:
            try:
                patience = max(0.1, min(timeout, deadline - time.monotonic()))
                return await cls._connect_once(uri, options, timeout, patience, analyzer, releases)
            except (VectorIndexUnavailable, MissingPrivileges) as exc:
                now = time.monotonic()
                if (reason := refusal(exc, uri, database)) and now > refused_until:
                    raise StartupError(reason) from exc
                if reason is None:
                    refused_until = now + REFUSED_SECONDS
                if now + 0.25 > deadline:
                    raise
                await asyncio.sleep(0.25)

    @classmethod
    async def _connect_once(
        cls,
        uri: str,
        options: Mapping[str, Any],
        timeout: float,
        patience: float,
        analyzer: Analyzer,
        releases: bool,
    ) -> Self:
        # Dedicated connections, because pymilvus keeps shared ones open when their client is closed.
        options = {**options, "timeout": patience, "dedicated": True, "grpc_options": RECONNECT}
        try:
            client = AsyncMilvusClient(uri, **options)
        except MilvusException as error:
            raise StartupError("MILVUS_URI is not the address of a Milvus server, such as http://host:19530") from error

        async def open_both() -> tuple[MilvusClient, str]:
            await client.list_collections(timeout=patience)
            version = await client.get_server_version(timeout=patience)
            if has_credentials(uri, options["token"]):
                await check_privileges(client, patience, releases=releases)
            return await asyncio.to_thread(partial(MilvusClient, uri, **options)), version

        try:
            blocking, version = await with_deadline(patience, open_both)
            return cls(client, blocking, timeout, version, analyzer)
        except BaseException:
            await client.close()
            raise

    @property
    def bm25(self) -> bool:
        return self._bm25

    async def supports_lexical(self, collection: str) -> bool:
        return (await self._info(collection)).supports_lexical

    @property
    def late_write_window_seconds(self) -> float:
        """How many seconds after the end of a write's call, however it ended, the write may still take effect.

        pymilvus retries until the call's deadline if the server is unavailable, and each attempt has a timeout of its
        own of ``timeout`` seconds. So the last attempt may run that long after the call has ended. The slack is for a
        server that finishes a request after its timeout. Retries are harmless: upserts and deletes by key are
        idempotent.
        """
        return self._timeout + LATE_WRITE_SLACK_SECONDS

    async def create(self, collection: str, dimension: int, *, load: bool = True) -> None:
        if not schema.COLLECTION_NAME.fullmatch(collection) or not 1 <= dimension <= schema.MAX_DIMENSION:
            raise ValueError(f"Milvus cannot have a collection {collection!r} of {dimension} dimensions")

        async def create() -> None:
            description = await self._collections.describe(collection)
            if description is None:
                fields = schema.collection_schema(dimension, lexical=self._bm25)
                description = await self._collections.create(collection, fields)
            index = await self._collections.describe_index(collection, schema.EMBEDDING)
            if not schema.is_ours(description, index, dimension):
                raise CollectionForeign(
                    f"Collection {collection} has another shape than {dimension} dimensions of ours."
                )
            for field in schema.indexed_fields(description):
                if await self._collections.describe_index(collection, field) is None:
                    await self._collections.create_index(collection, field)
            if load:
                await self._client.load_collection(collection, timeout=CREATE_SECONDS)
            self._infos[collection] = CollectionInfo(dimension, schema.described_lexical(description))

        await with_deadline(CREATE_SECONDS, create)

    async def load(self, collection: str) -> None:
        await self._memory.load(collection)

    async def release(self, collection: str) -> None:
        await self._memory.release(collection)

    async def loaded(self) -> set[str]:
        return await self._memory.loaded()

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        self._infos.pop(collection, None)

        async def drop() -> None:
            description = await self._collections.describe(collection)
            if description is None:
                return
            found = schema.described_dimension(description)
            index = await self._collections.describe_index(collection, schema.EMBEDDING)
            if found is None or dimension not in (None, found) or not schema.is_ours(description, index, found):
                log.warning("kept collection %s: this server did not create it", collection)
                return
            await self._client.drop_collection(collection, timeout=self._timeout)

        await self._call(drop)

    async def collections(self) -> list[str]:
        names = await self._call(partial(self._client.list_collections, timeout=self._timeout))
        return [name for name in names if name != schema.MARKER]

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
        count, dimension = embeddings.shape
        if len(chunk_ids) != count or len(doc_ids) != count or embeddings.dtype != np.float32:
            raise ValueError(f"{len(chunk_ids)} keys, {len(doc_ids)} documents, {count} vectors of {embeddings.dtype}")
        if texts is not None and len(texts) != count:
            raise ValueError(f"{len(texts)} texts for {count} vectors")
        info = await self._check_dimension(collection, dimension)
        words = None
        if info.supports_lexical:
            # In a thread: a long text takes half a millisecond, and hundreds would block the event loop.
            words = (
                [""] * count
                if texts is None
                else await self._in_thread(partial(self._analyzed, texts, analyzer_version))
            )
        timestamp = 0
        for rows in request_slices(dimension, count, words):
            request = insert_request(
                collection, chunk_ids[rows], doc_ids[rows], embeddings[rows], None if words is None else words[rows]
            )
            try:
                written = await self._call(partial(send_write, self._client, request, self._timeout, fresh=fresh))
            except VectorIndexUnavailable:
                self._infos.pop(collection, None)  # Another process may have dropped it and created it again.
                raise
            timestamp = max(timestamp, written)
        return timestamp

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        ids = [int(chunk_id) for chunk_id in chunk_ids]
        for start in range(0, len(ids), DELETE_KEYS):
            batch = ids[start : start + DELETE_KEYS]
            delete = partial(self._blocking.delete, collection, ids=batch, timeout=self._timeout)
            await self._call(partial(self._in_thread, delete))

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
        _check_k(k)
        await self._check_dimension(collection, queries.shape[1])
        scope = SearchScope(doc_ids, chunk_ids, exclude_ranges)
        return await self._search.dense(collection, queries, k, guarantee_timestamp, scope)

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
        _check_k(k)
        if not await self.supports_lexical(collection):
            raise ValueError(f"collection {collection} has no lexical field")
        scope = SearchScope(doc_ids, chunk_ids, exclude_ranges)
        return await self._search.lexical(collection, texts, k, analyzer_version, guarantee_timestamp, scope)

    async def embeddings(
        self, collection: str, chunk_ids: Sequence[int], *, guarantee_timestamp: int = 0
    ) -> dict[int, Vectors]:
        return await self._search.embeddings(collection, chunk_ids, guarantee_timestamp) if chunk_ids else {}

    async def present(self, collection: str, ranges: Sequence[KeyRange]) -> set[int]:
        if not ranges:
            return set()
        condition = " or ".join(f"({_in_range(key_range)})" for key_range in ranges)
        return {key async for page in self._pages(collection, f" and ({condition})", schema.MAX_TOP_K) for key in page}

    async def scan(
        self, collection: str, *, page: int = 4096, key_range: KeyRange | None = None
    ) -> AsyncIterator[list[int]]:
        condition = f" and ({_in_range(key_range)})" if key_range else ""
        async for keys in self._pages(collection, condition, page):
            yield keys

    async def unverified_collections(self, claim: float = 0) -> Sequence[UnverifiedCollection]:
        if not self._lite:
            return ()
        return await self._call(partial(unverified_collections, self._client, claim, self._timeout))

    async def finish_verification(self, collection: UnverifiedCollection, *, complete: bool) -> None:
        if self._lite:
            await self._call(partial(finish_verification, self._client, collection, complete, self._timeout))

    async def count(self, collection: str) -> int:
        count = partial(
            self._client.query,
            collection,
            filter="",
            output_fields=["count(*)"],
            consistency_level="Strong",
            timeout=self._timeout,
        )
        return int((await self._memory.read(count))[0]["count(*)"])

    async def ping(self) -> None:
        # Not get_server_version: Milvus's proxy answers that by itself. This call reaches the coordinator behind it.
        await self._call(partial(self._client.has_collection, "ping", timeout=self._timeout))

    async def close(self) -> None:
        await self._client.close()
        self._blocking.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _pages(self, collection: str, condition: str, size: int) -> AsyncIterator[list[int]]:
        """Keys in ascending order, at most ``size`` at a time."""
        last = -(2**63) + 1
        while True:
            after_last = f"{schema.CHUNK_ID} > {last}{condition}"
            first_rows = partial(self._collections.first_rows, collection, after_last, [schema.CHUNK_ID], size)
            rows = await self._memory.read(first_rows)
            if not rows:
                return
            keys = sorted(int(row[schema.CHUNK_ID]) for row in rows)
            for start in range(0, len(keys), size):
                yield keys[start : start + size]
            last = keys[-1]

    async def _check_dimension(self, collection: str, dimension: int) -> CollectionInfo:
        """Raises ValueError if the collection has another dimension. Needs no request if the collection is cached."""
        info = self._infos.get(collection)
        if info is None or info.dimension != dimension:
            self._infos.pop(collection, None)
            info = await self._info(collection)
        if info.dimension != dimension:
            raise ValueError(f"collection {collection} has {info.dimension} dimensions, not {dimension}")
        return info

    async def _info(self, collection: str) -> CollectionInfo:
        if collection not in self._infos:
            description = await self._call(partial(self._client.describe_collection, collection, timeout=self._timeout))
            dimension = schema.described_dimension(description)
            self._infos[collection] = CollectionInfo(dimension or 0, schema.described_lexical(description))
        return self._infos[collection]

    def _analyzed(self, texts: Sequence[str], version: int) -> list[str]:
        return [self._analyzer(text, version) for text in texts]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _call(self, request: Callable[[], Awaitable[T]]) -> T:
        return await with_deadline(self._timeout, request)


def _in_range(key_range: KeyRange) -> str:
    return f"{schema.CHUNK_ID} >= {int(key_range[0])} and {schema.CHUNK_ID} < {int(key_range[1])}"


def _check_k(k: int) -> None:
    if not 1 <= k <= schema.MAX_TOP_K:
        raise ValueError(f"k must be 1 to {schema.MAX_TOP_K}, not {k}")
