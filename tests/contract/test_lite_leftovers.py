"""Collections of Milvus Lite beside others that are created and dropped, or were left behind by a kill."""

import asyncio
from pathlib import Path

import numpy as np

from tests.contract.conftest import DIMENSION, new_name
from tests.contract.test_vector_index import axis, ids, nearest
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index


async def test_a_folder_without_a_schema_is_not_in_the_way(tmp_path: Path) -> None:
    """As a kill leaves it between the making of the folder and of the schema in it, or in the middle of a drop."""
    name, kept = new_name(), new_name()
    with LiteServer(tmp_path) as server:
        index = await connect_index(server.uri)
        await index.create(kept, DIMENSION)
        await index.upsert(kept, np.array([1]), np.array([1]), axis(0)[None, :], ["one"])
        left = tmp_path / "data" / "collections" / name / "partitions"
        left.mkdir(parents=True)
        (left / "old").write_text("of the one before")
        await index.create(name, DIMENSION)
        assert not (left / "old").exists()
        await index.upsert(name, np.array([2]), np.array([2]), axis(1)[None, :], ["two"])
        for collection, row in ((name, 2), (kept, 1)):
            await index.create(collection, DIMENSION)  # Repeatable.
            assert ids(await nearest(index, collection, axis(0), 5)) == [row]
        await index.close()


async def test_collections_are_listed_while_others_are_created_and_dropped(lite_server: LiteServer) -> None:
    index = await connect_index(lite_server.uri)

    async def change() -> None:
        for _ in range(10):
            name = new_name()
            await index.create(name, DIMENSION)
            await index.drop(name)

    kept = new_name()
    await index.create(kept, DIMENSION)
    changing = asyncio.gather(change(), change())
    while not changing.done():
        assert kept in await index.collections()
        assert kept in await index.loaded()
    await changing
    await index.drop(kept)
    await index.close()
