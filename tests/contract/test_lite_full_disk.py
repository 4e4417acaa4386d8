"""Milvus Lite on a full disk: what was acknowledged is shown all the time, and is there after a kill."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from app.core.ports import UnverifiedCollection, VectorIndex
from app.utils.errors import CollectionUnverified, VectorIndexFull
from tests.conftest import until
from tests.contract.conftest import DIMENSION, new_name
from tests.contract.test_vector_index import nearest, random_vectors
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index, loading
from tests.small_disk import SmallDisk, disk

__all__ = ["disk"]

PART = 50


class Rows:
    """Rows written to one collection of a Milvus Lite process, and those that were acknowledged."""

    def __init__(self, server: LiteServer, index: VectorIndex) -> None:
        self.server = server
        self.index = index
        self.name = new_name()
        self.acknowledged: set[int] = set()
        self._next = 0

    async def write(self, count: int = PART) -> None:
        keys = np.arange(self._next, self._next + count)
        self._next += count
        words = [f"word{key}" for key in keys]
        await self.index.upsert(self.name, keys, keys, random_vectors(count), words, fresh=True)
        self.acknowledged.update(keys.tolist())

    async def write_until_full(self) -> None:
        async with asyncio.timeout(30):
            while await self.is_written():
                pass

    async def check(self) -> None:
        """Nothing acknowledged is missing, neither from a scan nor from both kinds of search."""
        scanned = {key async for page in self.index.scan(self.name) for key in page}
        assert self.acknowledged <= scanned
        found = {hit.chunk_id for hit in await nearest(self.index, self.name, random_vectors(1)[0], 16_384)}
        assert self.acknowledged <= found
        for key in list(self.acknowledged)[::97]:
            (hits,) = await self.index.search_lexical(self.name, [f"word{key}"], 1)
            assert [hit.chunk_id for hit in hits] == [key]

    async def is_written(self) -> bool:
        try:
            await self.write()
        except VectorIndexFull:
            return False
        return True

    async def unverified_collections(self) -> list[UnverifiedCollection]:
        return [each for each in await self.index.unverified_collections() if each.name == self.name]

    async def is_unverified(self) -> bool:
        return bool(await self.unverified_collections())

    async def restart(self) -> None:
        self.server.kill()
        self.server.start()
        await self.index.close()
        self.index = loading(await connect_index(self.server.uri))

    async def finish_verification(self) -> None:
        for collection in await self.index.unverified_collections():
            await self.index.finish_verification(collection, complete=True)

    @property
    def folder(self) -> Path:
        return self.server.data / "collections" / self.name


@pytest.fixture
async def rows(disk: SmallDisk) -> AsyncIterator[Rows]:
    with LiteServer(disk.folder) as server:
        rows = Rows(server, loading(await connect_index(server.uri)))
        await rows.index.create(rows.name, DIMENSION)
        for _ in range(4):
            await rows.write()
        yield rows
        await rows.index.close()


async def test_a_log_write_that_fails(rows: Rows, disk: SmallDisk) -> None:
    disk.fill(spare=40_000)
    await rows.write_until_full()
    assert await rows.unverified_collections() == [UnverifiedCollection(rows.name, 1, False, True)]
    assert await rows.index.unverified_collections(claim=5) == []  # There is nothing to be compared yet.
    await rows.check()
    disk.free()
    await until(rows.is_written)
    await rows.check()
    await rows.restart()
    await rows.finish_verification()
    await rows.check()


async def test_a_flush_that_fails(rows: Rows, disk: SmallDisk) -> None:
    disk.fill()
    await until(rows.is_unverified)
    await rows.check()
    with pytest.raises(VectorIndexFull):
        await rows.index.delete(rows.name, [1])
    disk.free()
    await until(rows.is_written)
    await rows.restart()
    await rows.finish_verification()
    await rows.check()


async def test_killed_while_full(rows: Rows, disk: SmallDisk) -> None:
    other = Rows(rows.server, rows.index)
    await rows.index.create(other.name, DIMENSION)
    disk.fill(spare=40_000)
    await rows.write_until_full()
    await rows.restart()
    with pytest.raises(CollectionUnverified):
        await nearest(rows.index, rows.name, random_vectors(1)[0], 5)
    with pytest.raises(CollectionUnverified):
        await rows.index.search_lexical(rows.name, ["word1"], 5)
    assert await nearest(rows.index, other.name, random_vectors(1)[0], 5) == []
    (claimed,) = await rows.index.unverified_collections(claim=5)
    assert claimed == UnverifiedCollection(rows.name, 0, True, False)
    assert await rows.index.unverified_collections(claim=5) == []
    await rows.index.finish_verification(claimed, complete=False)
    assert await rows.index.unverified_collections(claim=5) == [claimed]
    await rows.index.finish_verification(claimed, complete=True)
    await rows.check()
    await rows.write_until_full()
    await rows.check()
    disk.free()
    await until(rows.is_written)
    await rows.check()


async def test_a_failure_after_the_comparison_outdates_it(rows: Rows, disk: SmallDisk) -> None:
    disk.fill()
    await until(rows.is_unverified)
    (before,) = await rows.unverified_collections()
    disk.free()
    await until(rows.is_written)
    disk.fill()
    await rows.write_until_full()
    await rows.index.finish_verification(before, complete=True)
    disk.free()
    await until(rows.is_written)
    (after,) = await rows.unverified_collections()
    assert after.failures > before.failures
    await rows.finish_verification()
    assert await rows.unverified_collections() == []
    await rows.restart()
    assert await rows.unverified_collections() == []
    await rows.check()


async def test_a_collection_is_dropped_and_none_is_made_on_a_full_disk(rows: Rows, disk: SmallDisk) -> None:
    disk.fill()
    await until(rows.is_unverified)
    disk.fill()
    name = new_name()
    with pytest.raises(VectorIndexFull):
        await rows.index.create(name, DIMENSION)
    await rows.index.drop(rows.name)
    assert not rows.folder.exists()
    disk.free()
    await rows.index.create(name, DIMENSION)
    assert await nearest(rows.index, name, random_vectors(1)[0], 5) == []
    assert await rows.index.collections() == [name]


async def test_half_a_record_that_a_kill_left(rows: Rows) -> None:
    """Compared, and searched meanwhile: nothing was acknowledged behind it."""
    rows.server.kill()
    (log,) = sorted((rows.folder / "wal").glob("wal_data_*"))[-1:]
    with log.open("ab") as file:
        file.write(log.read_bytes()[:100])
    await rows.restart()
    await rows.check()
    assert await rows.unverified_collections() == [UnverifiedCollection(rows.name, 0, True, True)]
