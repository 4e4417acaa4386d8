"""The vector index on Milvus: a server, standalone or distributed, or Milvus Lite's own process.

Two clients share the work. ``AsyncMilvusClient`` serves everything frequent. The blocking ``MilvusClient``
runs in a small pool of threads and does two things that the async one does wrong in pymilvus 3.0.2: its
``delete`` never looks at the answer's status, and its ``create_index`` waits by a call Milvus Lite lacks.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Self, TypeVar

import numpy as np
from pymilvus import AsyncMilvusClient, MilvusClient, MilvusException

from app.core.stores.milvus_driver import RECONNECT, is_missing, is_not_loaded, last_write_timestamp, silence, within
from app.core.stores.ports import Hit, Keys, Vectors
from app.schemas import milvus as schema
from app.utils.errors import CollectionForeign, StartupError, VectorIndexUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

PART_BYTES: Final = 2 << 20
"""Size of one upsert request. Milvus takes 64 MB; but pymilvus packs rows on the event loop, 25 ms a MiB."""

EXACT_ROWS: Final = 2048
"""Most embeddings fetched to be compared here, where a filtered search comes back short."""

CREATE_SECONDS: Final = 60.0
"""Longest that making, indexing and loading a collection may take; 3 s when nothing else goes on."""

SETTLE_SLACK_SECONDS: Final = 5.0


class MilvusIndex:
    """Keeps to VectorIndex. Belongs to the event loop it was connected in; safe for concurrent use there."""

    def __init__(self, client: AsyncMilvusClient, blocking: MilvusClient, timeout: float) -> None:
        self._client = client
        self._blocking = blocking
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="milvus")
        self._dimensions: dict[str, int] = {}

    @classmethod
    async def connect(cls, uri: str, token: str = "", *, timeout: float = 10.0, wait: float = 30.0) -> Self:
        """Connects to ``uri`` (http://host:19530, or unix:/path of Milvus Lite).

        ``timeout``: seconds each later call may take. ``wait``: seconds to keep trying while the server is
        away. Raises VectorIndexUnavailable after that, and StartupError for a URI that is none.
        """
        silence()
        deadline = time.monotonic() + wait
        while True:
            try:
                return await cls._connect_once(uri, token, timeout, max(0.1, min(timeout, deadline - time.monotonic())))
            except VectorIndexUnavailable:
                if time.monotonic() + 0.25 > deadline:
                    raise
                await asyncio.sleep(0.25)

    @classmethod
    async def _connect_once(cls, uri: str, token: str, timeout: float, patience: float) -> Self:
        # Dedicated connections: shared ones stay open in a registry of pymilvus when their client is closed.
        try:
            client = AsyncMilvusClient(uri, token=token, timeout=patience, dedicated=True, grpc_options=RECONNECT)
        except MilvusException as error:
            raise StartupError(
                "MILVUS_URI is no address of a Milvus server; it looks like http://host:19530"
            ) from error

        async def open_both() -> MilvusClient:
            await client.list_collections(timeout=patience)
            make = partial(MilvusClient, uri, token=token, timeout=patience, dedicated=True, grpc_options=RECONNECT)
            return await asyncio.to_thread(make)

        try:
            return cls(client, await within(patience, open_both), timeout)
        except BaseException:
            await client.close()
            raise

    @property
    def settle_seconds(self) -> float:
        """How long after a write's call has ended, however it ended, the write may still land.

        pymilvus repeats an attempt that found the server away until the call's deadline, and gives each
        attempt a deadline of its own of ``timeout`` seconds: the last may run that long after the call was
        given up. The slack is for a server that finishes what it already holds when the deadline passes.
        Repeating is harmless: upserts and deletes by key give the same result twice.
        """
        return self._timeout + SETTLE_SLACK_SECONDS

    async def create(self, collection: str, dimension: int) -> None:
        if not schema.COLLECTION_NAME.fullmatch(collection) or not 1 <= dimension <= schema.MAX_DIMENSION:
            raise ValueError(f"Milvus takes no collection {collection!r} of {dimension} dimensions")

        async def make() -> None:
            description = await self._describe(collection)
            if description is None:
                description = await self._create_collection(collection, dimension)
            index = await self._describe_index(collection)
            if not schema.is_ours(description, index, dimension):
                raise CollectionForeign(
                    f"Collection {collection} has another shape than {dimension} dimensions of ours."
                )
            if index is None:
                await self._create_index(collection)
            await self._client.load_collection(collection, timeout=CREATE_SECONDS)
            self._dimensions[collection] = dimension

        await within(CREATE_SECONDS, make)

    async def drop(self, collection: str, dimension: int | None = None) -> None:
        self._dimensions.pop(collection, None)

        async def drop_ours() -> None:
            description = await self._describe(collection)
            if description is None:
                return
            found = schema.described_dimension(description)
            index = await self._describe_index(collection)
            if found is None or dimension not in (None, found) or not schema.is_ours(description, index, found):
                log.warning("left collection %s alone: it is not of our making", collection)
                return
            await self._client.drop_collection(collection, timeout=self._timeout)

        await self._call(drop_ours)

    async def collections(self) -> list[str]:
        return await self._call(partial(self._client.list_collections, timeout=self._timeout))

    async def upsert(self, collection: str, chunk_ids: Keys, doc_ids: Keys, embeddings: Vectors) -> int:
        count, dimension = embeddings.shape
        if len(chunk_ids) != count or len(doc_ids) != count or embeddings.dtype != np.float32:
            raise ValueError(f"{len(chunk_ids)} keys, {len(doc_ids)} documents, {count} vectors of {embeddings.dtype}")
        await self._check_dimension(collection, dimension)
        step = max(1, PART_BYTES // (4 * dimension + 2 * 8))
        for start in range(0, count, step):
            part = slice(start, start + step)
            rows = [
                {schema.CHUNK_ID: chunk_id, schema.DOC_ID: doc_id, schema.EMBEDDING: embedding}
                for chunk_id, doc_id, embedding in zip(
                    chunk_ids[part].tolist(), doc_ids[part].tolist(), embeddings[part], strict=True
                )
            ]
            await self._call(partial(self._client.upsert, collection, rows, timeout=self._timeout))
        return last_write_timestamp(self._client, collection)

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        if ids := [int(chunk_id) for chunk_id in chunk_ids]:
            delete = partial(self._blocking.delete, collection, ids=ids, timeout=self._timeout)
            await self._call(partial(self._in_thread, delete))

    async def search(
        self, collection: str, query: Vectors, k: int, *, guarantee: int = 0, doc_ids: Sequence[int] | None = None
    ) -> list[Hit]:
        if not 1 <= k <= schema.MAX_TOP_K:
            raise ValueError(f"k must be 1 to {schema.MAX_TOP_K}, not {k}")
        await self._check_dimension(collection, *query.shape)
        if doc_ids is not None and not doc_ids:
            return []
        # Only integers reach the expression. Milvus Lite has no templates (filter_params).
        expression = "" if doc_ids is None else f"{schema.DOC_ID} in [{_numbers(doc_ids)}]"
        # A guarantee of 0 would mean Strong; 1, older than anything, is Eventually.
        consistency = {"consistency_level": "Customized", "guarantee_timestamp": guarantee or 1}
        found = await self._read(
            collection,
            partial(
                self._client.search,
                collection,
                data=[np.asarray(query, np.float32)],
                anns_field=schema.EMBEDDING,
                limit=k,
                search_params=schema.search_params(k),
                filter=expression,
                timeout=self._timeout,
                **consistency,
            ),
        )
        # By column: a hit's own key field is called "chunk_id" by Milvus Lite and "id" by a server before 2.4.
        scores = dict(zip(found[0].ids, found[0].distances, strict=True)) if found else {}
        if expression and guarantee and len(scores) < k:
            scores |= await self._compared(collection, query, expression, consistency)
        # Rounding on the server gives 1.0000001 for equal vectors.
        hits = [Hit(int(key), max(-1.0, min(1.0, float(score)))) for key, score in scores.items()]
        return sorted(hits, key=lambda hit: -hit.score)[:k]

    async def _compared(
        self, collection: str, query: Vectors, expression: str, consistency: Mapping[str, Any]
    ) -> Mapping[int, float]:
        """Cosines of up to EXACT_ROWS rows that match, computed here.

        A server searches what is not yet sealed through a temporary index that looks into 16 of 128 clusters
        (queryNode.segcore.interimIndex), filter or not. Measured on 2.3.5 with 12,000 rows of 512 dimensions:
        of three documents it found one chunk in eight. So a filtered search that comes back short is not to
        be believed. Milvus Lite, which hands out no guarantees, looks at every row.
        """
        rows = await self._read(
            collection,
            partial(
                self._client.query,
                collection,
                filter=expression,
                output_fields=[schema.CHUNK_ID, schema.EMBEDDING],
                limit=EXACT_ROWS,
                timeout=self._timeout,
                **consistency,
            ),
        )
        if not rows:
            return {}
        embeddings = np.array([row[schema.EMBEDDING] for row in rows], np.float32)
        cosines = embeddings @ query / (np.linalg.norm(embeddings, axis=1) * np.linalg.norm(query))
        return dict(zip((row[schema.CHUNK_ID] for row in rows), cosines.tolist(), strict=True))

    async def present(self, collection: str, spans: Sequence[tuple[int, int]]) -> set[int]:
        if not spans:
            return set()
        ranges = " or ".join(f"({schema.CHUNK_ID} >= {int(a)} and {schema.CHUNK_ID} < {int(b)})" for a, b in spans)
        return {key async for page in self._pages(collection, f" and ({ranges})", schema.MAX_TOP_K) for key in page}

    async def scan(self, collection: str, *, page: int = 4096) -> AsyncIterator[list[int]]:
        async for keys in self._pages(collection, "", page):
            yield keys

    async def ping(self) -> None:
        # The version comes from Milvus's proxy alone; whether a collection exists asks the coordinator behind it.
        await self._call(partial(self._client.has_collection, "ping", timeout=self._timeout))

    async def close(self) -> None:
        await self._client.close()
        self._blocking.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _pages(self, collection: str, condition: str, size: int) -> AsyncIterator[list[int]]:
        """Keys in ascending order, at most ``size`` at a time.

        A plain query with a limit returns any rows it likes. Asked as pymilvus's own iterator asks
        (``iterator``, ``reduce_stop_for_best``), Milvus and Milvus Lite return the smallest keys. Such a
        query takes no consistency level, so the collection's own holds, which is Strong.
        """
        last = -(2**63) + 1
        while True:
            rows = await self._read(
                collection,
                partial(
                    self._client.query,
                    collection,
                    filter=f"{schema.CHUNK_ID} > {last}{condition}",
                    output_fields=[schema.CHUNK_ID],
                    limit=size,
                    iterator="True",
                    reduce_stop_for_best="True",
                    timeout=self._timeout,
                ),
            )
            if not rows:
                return
            keys = sorted(int(row[schema.CHUNK_ID]) for row in rows)
            # Milvus limits each segment, then merges: the answer may be shorter, as what an upsert replaced
            # drops out, and yet not the last; and longer, up to the first segment's end.
            for start in range(0, len(keys), size):
                yield keys[start : start + size]
            last = keys[-1]

    async def _check_dimension(self, collection: str, dimension: int) -> None:
        """Refuses vectors of another dimension, whatever the server's version says to them. No RPC when known."""
        if self._dimensions.get(collection) != dimension:
            description = await self._call(partial(self._client.describe_collection, collection, timeout=self._timeout))
            known = schema.described_dimension(description)
            if known != dimension:
                raise ValueError(f"collection {collection} has {known} dimensions, not {dimension}")
            self._dimensions[collection] = known

    async def _describe(self, collection: str) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = await self._client.describe_collection(collection, timeout=self._timeout)
        except MilvusException as error:
            if is_missing(error):
                return None
            raise
        return found

    async def _describe_index(self, collection: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = await self._client.describe_index(
            collection, schema.EMBEDDING, timeout=self._timeout
        )
        return found

    async def _create_collection(self, collection: str, dimension: int) -> Mapping[str, Any]:
        """Makes the collection or finds the one that somebody else made at the same moment."""
        refusal: MilvusException | None = None
        try:
            await self._client.create_collection(
                collection,
                schema=schema.collection_schema(dimension),
                num_shards=schema.NUM_SHARDS,
                consistency_level=schema.CONSISTENCY,
                timeout=self._timeout,
            )
        except MilvusException as error:
            refusal = error
        for _ in range(20):  # Milvus Lite refuses the second caller a moment before the first one's is there
            if description := await self._describe(collection):
                return description
            await asyncio.sleep(0.05)
        raise refusal or MilvusException(message="dropped while it was made")

    async def _create_index(self, collection: str) -> None:
        """As above. ``sync=False``: an index of no rows is ready at once, no need to wait half a second for it."""
        try:
            build = partial(self._blocking.create_index, collection, schema.index_params(), sync=False)
            await self._in_thread(partial(build, timeout=self._timeout))
        except MilvusException:
            if await self._describe_index(collection) is None:
                raise

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _call(self, request: Callable[[], Awaitable[T]]) -> T:
        return await within(self._timeout, request)

    async def _read(self, collection: str, request: Callable[[], Awaitable[T]]) -> T:
        """A request that needs the collection in memory: after a restart Milvus loads it again, which takes a while."""

        async def attempt() -> T:
            try:
                return await request()
            except MilvusException as error:
                if not is_not_loaded(error):
                    raise
                await self._client.load_collection(collection, timeout=self._timeout)
                return await request()

        return await self._call(attempt)


def _numbers(values: Sequence[int]) -> str:
    return ",".join(str(int(value)) for value in values)
