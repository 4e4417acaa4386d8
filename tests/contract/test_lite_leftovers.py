"""Milvus Lite makes a collection where a killed one has left a folder in the way."""

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
