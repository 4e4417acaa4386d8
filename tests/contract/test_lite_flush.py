"""Milvus Lite shows what was written also while it flushes."""

import asyncio

import numpy as np

from tests.contract.conftest import DIMENSION, Backend, new_name
from tests.contract.test_vector_index import ids, nearest, random_vectors
from tests.lite_server import LiteServer
from tests.milvus_index import connect_index

TURNS = 40


async def test_no_search_misses_a_row_during_a_flush(lite_server: LiteServer) -> None:
    index, name, vectors = await connect_index(lite_server.uri), new_name(), random_vectors(TURNS)
    await index.create(name, DIMENSION)
    searches = 0
    for key, vector in enumerate(vectors):
        await index.upsert(name, np.array([key]), np.array([key]), vector[None, :], [f"word{key}"])
        flush = asyncio.create_task(asyncio.to_thread(Backend._flush, lite_server.uri, name))
        while not flush.done():
            near, (words,) = await asyncio.gather(
                nearest(index, name, vector, 1), index.search_lexical(name, [f"word{key}"], 1)
            )
            assert (ids(near), ids(words)) == ([key], [key])
            searches += 1
        await flush
    assert searches > TURNS
    await index.drop(name)
    await index.close()
