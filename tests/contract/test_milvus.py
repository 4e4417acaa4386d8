"""What MilvusIndex promises beyond the port: timestamps, numbers of requests, retries, collections of others."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from pymilvus import AsyncMilvusClient, DataType, MilvusClient, MilvusException

from app.core.stores.milvus.index import MilvusIndex
from app.schemas.milvus import collection_schema
from app.utils.errors import CollectionForeign, CollectionMissing, VectorIndexUnavailable
from tests.conftest import until
from tests.contract.conftest import DIMENSION, new_name
from tests.contract.milvus_backends import Server, connected, name, server
from tests.contract.test_vector_index import CALLS, axis, ids, nearest, random_vectors, scanned, upsert
from tests.lite_server import LiteServer
from tests.milvus_server import MilvusServer

__all__ = ["name", "server"]


class CountedStub:
    """Stands before the gRPC stub of pymilvus and counts by name what is asked of it."""

    def __init__(self, stub: Any, calls: Counter[str]) -> None:
        self._stub, self._calls = stub, calls

    def __getattr__(self, name: str) -> Any:
        self._calls[name] += 1
        return getattr(self._stub, name)


async def test_each_call_is_one_request(server: Server, name: str) -> None:
    async with connected(server) as index:
        calls: Counter[str] = Counter()
        index._client._handler._async_stub = CountedStub(index._client._handler._async_stub, calls)
        index._blocking._handler._stub = CountedStub(index._blocking._handler._stub, calls)
        await upsert(index, name, {1: axis(0)})  # learns the schema
        await index.delete(name, [2])  # and so does the other client
        calls.clear()
        for _ in range(3):
            await upsert(index, name, {1: axis(0)})
            await nearest(index, name, axis(0), 1)
            await index.delete(name, [2])
        assert calls == {"Upsert": 3, "Search": 3, "Delete": 3}


class LosingStub(CountedStub):
    """The first insert is carried out, and its answer lost."""

    def __getattr__(self, name: str) -> Any:
        call = super().__getattr__(name)

        async def carried_out(*args: Any, **options: Any) -> Any:
            await call(*args, **options)
            raise MilvusException(message="the answer was lost")

        return carried_out if name == "Insert" and self._calls[name] == 1 else call


async def test_fresh_keys_are_inserted_and_upserted_when_that_is_in_doubt(server: Server, name: str) -> None:
    keys = {100: axis(3), 101: axis(4)}
    async with connected(server) as index:
        calls: Counter[str] = Counter()
        index._client._handler._async_stub = LosingStub(index._client._handler._async_stub, calls)
        timestamp = await upsert(index, name, keys, fresh=True)
        assert (calls["Insert"], calls["Upsert"]) == (1, 1)
        assert await index.present(name, [(100, 102)]) == {100, 101}
        hits = await nearest(index, name, axis(3), 50, guarantee_timestamp=timestamp)
        assert sorted(ids(hits)) == sorted(set(ids(hits)))  # Neither twice.
        assert ids(hits)[0] == 100
        calls["Insert"] = 1
        later = await upsert(index, name, {102: axis(5)}, fresh=True)
        assert calls["Upsert"] == 1
        assert later > timestamp or later == timestamp == 0
        assert ids(await nearest(index, name, axis(5), 1, guarantee_timestamp=later)) == [102]
        await index.delete(name, [100, 101, 102])


class FailingStub(CountedStub):
    """The first insert, upsert and search fail, as gRPC says it."""

    def __init__(self, index: MilvusIndex, code: grpc.StatusCode) -> None:
        super().__init__(index._client._handler._async_stub, Counter())
        self._code = code
        index._client._handler._async_stub = self

    def __getattr__(self, name: str) -> Any:
        call = super().__getattr__(name)

        async def failing(*args: Any, **options: Any) -> Any:
            raise grpc.aio.AioRpcError(self._code, grpc.aio.Metadata(), grpc.aio.Metadata())

        return failing if name in ("Insert", "Upsert", "Search") and self._calls[name] == 1 else call

    def sent(self, *names: str) -> list[int]:
        return [self._calls[name] for name in names]


async def test_what_pymilvus_would_repeat_is_repeated(server: Server, name: str) -> None:
    """It may connect anew before it does, which takes the stub away."""
    async with connected(server) as index:
        for fresh, kind in ((True, "Insert"), (False, "Upsert")):
            stub = FailingStub(index, grpc.StatusCode.UNAVAILABLE)
            timestamp = await upsert(index, name, {1: axis(0)}, fresh=fresh)
            assert stub.sent(kind) != [0]
            stub = FailingStub(index, grpc.StatusCode.UNAVAILABLE)
            assert ids(await nearest(index, name, axis(0), 1, guarantee_timestamp=timestamp)) == [1]
            assert stub.sent("Search") != [0]


async def test_what_took_too_long_is_not_sent_again(server: Server, name: str) -> None:
    """A process that was paused past its deadline must not write any more."""
    async with connected(server) as index:
        stub = FailingStub(index, grpc.StatusCode.DEADLINE_EXCEEDED)
        with pytest.raises(VectorIndexUnavailable):
            await upsert(index, name, {7: axis(0)}, fresh=True)
        with pytest.raises(VectorIndexUnavailable):
            await nearest(index, name, axis(0), 1)
        assert stub.sent("Insert", "Upsert", "Search") == [1, 0, 1]


async def test_an_insert_that_lands_after_its_upsert_is_shown_once_and_deleted_whole(server: Server) -> None:
    name = new_name()
    async with connected(server) as index:
        await index.create(name, DIMENSION)
        await upsert(index, name, {1: axis(0), 2: axis(1)}, fresh=True)
        timestamp = await upsert(index, name, {1: axis(0)}, fresh=True)
        assert sorted(ids(await nearest(index, name, axis(0), 10, guarantee_timestamp=timestamp))) == [1, 2]
        assert await index.present(name, [(0, 10)]) == {1, 2}
        assert [key for page in await scanned(index, name) for key in page] == [1, 2]
        await index.delete(name, [1])

        async def gone() -> bool:
            return await index.present(name, [(0, 10)]) == {2}

        await until(gone)
        await index.drop(name)


async def test_timestamp_moves_with_each_write_on_a_server(milvus_server: MilvusServer, backend_name: str) -> None:
    async with connected(milvus_server) as index:
        timestamps = [await upsert(index, backend_name, {key: axis(0)}) for key in range(5)]
        assert timestamps == sorted(set(timestamps))
        # The upper bits are milliseconds since 1970 (Milvus's hybrid timestamp).
        assert abs((timestamps[-1] >> 18) / 1000 - time.time()) < 60


async def test_timestamp_is_zero_on_lite(lite_server: LiteServer) -> None:
    name = new_name()
    async with connected(lite_server) as index:
        await index.create(name, DIMENSION)
        assert await upsert(index, name, {1: axis(0)}) == 0


@pytest_asyncio.fixture(loop_scope="session")
async def backend_name(milvus_server: MilvusServer) -> AsyncIterator[str]:
    name = new_name()
    async with connected(milvus_server) as index:
        await index.create(name, DIMENSION)
        yield name
        await index.drop(name)


READER = """
import asyncio, sys
import numpy as np
from tests.milvus_index import connect_index

async def main(uri, name, dimension):
    index = await connect_index(uri)
    for line in sys.stdin:
        key, timestamp = map(int, line.split())
        vector = np.random.default_rng(key).standard_normal(dimension).astype(np.float32)
        (hits,) = await index.search_dense(name, vector[None, :], 1, guarantee_timestamp=timestamp)
        print(int(bool(hits) and hits[0].chunk_id == key), flush=True)
    await index.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_another_process_sees_each_write_under_its_guarantee(server: Server, name: str) -> None:
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, server.uri, name, str(DIMENSION),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert reader.stdin is not None
    assert reader.stdout is not None
    seen = 0
    async with connected(server) as index:
        for key in range(100, 110):
            vector = np.random.default_rng(key).standard_normal(DIMENSION).astype(np.float32)
            timestamp = await upsert(index, name, {key: vector})
            reader.stdin.write(f"{key} {timestamp}\n".encode())
            seen += int(await reader.stdout.readline())
    reader.stdin.close()
    assert await reader.wait() == 0
    assert seen == 10


async def test_collection_made_anew_by_another_client(server: Server) -> None:
    """Schema and dimension that this client remembers are those of a collection that is no more."""
    name = new_name()
    async with connected(server) as index, connected(server) as other:
        await index.create(name, DIMENSION)
        await upsert(index, name, {1: axis(0)})
        await other.drop(name)
        for call in CALLS.values():
            with pytest.raises(CollectionMissing):
                await call(index, name)
        await other.create(name, 32)
        with pytest.raises(VectorIndexUnavailable):
            await upsert(index, name, {1: axis(0)})  # of the old dimension, which only the server notices
        vector = random_vectors(1, 32)
        timestamp = await index.upsert(name, np.array([5]), np.array([5]), vector)
        assert ids(await nearest(index, name, vector[0], 1, guarantee_timestamp=timestamp)) == [5]
        await index.drop(name)


async def test_filter_finds_all_chunks_of_a_document_that_is_not_sealed_yet(milvus_server: MilvusServer) -> None:
    name, count, dimension = new_name(), 12_000, 512
    vectors = random_vectors(count, dimension)
    async with connected(milvus_server) as index:
        await index.create(name, dimension)
        timestamp = await index.upsert(name, np.arange(count), np.arange(count) // 10, vectors)
        for doc in (0, 500, 1199):
            hits = await nearest(index, name, vectors[7], 50, guarantee_timestamp=timestamp, doc_ids=[doc])
            assert sorted(ids(hits)) == list(range(doc * 10, doc * 10 + 10))
        await index.drop(name)


@pytest.mark.parametrize("difference", ["field", "auto_id", "metric"])
async def test_collections_of_others_are_refused(server: Server, difference: str) -> None:
    name = new_name()
    shape = AsyncMilvusClient.create_schema(auto_id=difference == "auto_id", enable_dynamic_field=False)
    shape.add_field("chunk_id", DataType.INT64, is_primary=True)
    shape.add_field("document" if difference == "field" else "doc_id", DataType.INT64)
    shape.add_field("embedding", DataType.FLOAT_VECTOR, dim=DIMENSION)
    params = AsyncMilvusClient.prepare_index_params()
    metric = "L2" if difference == "metric" else "COSINE"
    params.add_index("embedding", index_type="HNSW", metric_type=metric, params={"M": 16, "efConstruction": 200})
    async with connected(server) as index:
        client = MilvusClient(server.uri, dedicated=True)
        client.create_collection(name, schema=shape, consistency_level="Strong")
        client.create_index(name, params, sync=False)
        client.close()
        with pytest.raises(CollectionForeign):
            await index.create(name, DIMENSION)
        await index.drop(name)
        assert name in await index.collections(), "somebody else's collection was dropped"
        client = MilvusClient(server.uri, dedicated=True)
        client.drop_collection(name)
        client.close()


async def test_half_made_collection_is_finished(server: Server) -> None:
    """Whoever made it died before the index; create by the next one completes it."""
    name = new_name()
    async with connected(server) as index:
        await index._collections.create(name, collection_schema(DIMENSION, lexical=index.bm25))
        await index.create(name, DIMENSION)
        timestamp = await upsert(index, name, {1: axis(0)})
        assert ids(await nearest(index, name, axis(0), 1, guarantee_timestamp=timestamp)) == [1]
        await index.drop(name)
