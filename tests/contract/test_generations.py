"""The marker in every index, and the generations in either record."""

from uuid import uuid4

import numpy as np
import pytest

from app.core.ports import VectorIndex
from app.core.write.write import Write
from app.schemas.operation_rows import GenerationBlock, Reservation
from app.utils.errors import NoGeneration
from tests.contract.conftest import DIMENSION, new_name
from tests.contract.records import HOUR, Record, document


def block(first: int, last: int) -> GenerationBlock:
    return GenerationBlock(uuid4(), first, last)


class TestMarker:
    @pytest.mark.asyncio(loop_scope="session")
    async def test_rows_are_read_back_in_the_order_of_their_generations(self, index: VectorIndex) -> None:
        known = await index.marker.read()
        mark = max((row.block.last for row in known), default=0)
        installation = uuid4()
        rows = [
            Reservation(block(mark + 11, mark + 20), installation, "123/한글 db/public", False),
            Reservation(block(mark + 1, mark + 10), installation, "123/한글 db/public", True),
        ]
        await index.marker.add(rows)
        assert await index.marker.read() == [*known, rows[1], rows[0]]
        last = Reservation(block(mark + 21, 2**37 - 1), uuid4(), "other", True)
        await index.marker.add([last])
        assert (await index.marker.read())[-1] == last
        assert await index.marker.read() == [*known, rows[1], rows[0], last]

    @pytest.mark.asyncio(loop_scope="session")
    async def test_the_marker_is_no_collection_of_a_bot(self, index: VectorIndex, collection: str) -> None:
        await index.marker.add([Reservation(block(1, 1), uuid4(), "db", False)])
        names = await index.collections()
        assert collection in names
        assert collection in await index.marker.bot_collections()
        assert set(await index.marker.bot_collections()) <= set(names)
        assert not any("installation" in name for name in names)

    @pytest.mark.asyncio(loop_scope="session")
    async def test_the_greatest_key(self, index: VectorIndex, collection: str) -> None:
        assert await index.marker.greatest_key(collection, 7) == 7
        assert await index.marker.greatest_key(new_name(), 7) == 7
        keys = np.array([3, 65_536 * 9 + 4, 65_536 * 2**30 + 5], np.int64)
        await index.upsert(collection, keys, keys, np.ones((3, DIMENSION), np.float32))
        assert await index.marker.greatest_key(collection, 0) == keys[2]
        assert await index.marker.greatest_key(collection, int(keys[2]) - 1) == keys[2]
        assert await index.marker.greatest_key(collection, int(keys[2])) == keys[2]


async def test_a_database_begins_without_a_block(new_record: Record) -> None:
    state = await new_record.generations.state()
    assert (state.usable, state.blocks, state.newest) == (False, [], 0)
    bot = await new_record.bot()
    with pytest.raises(NoGeneration):
        await new_record.transactions.begin([Write(bot, document("a"))], uuid4(), HOUR)


async def test_generations_are_taken_from_the_block(new_record: Record) -> None:
    used = block(101, 103)
    await new_record.generations.use(used)
    bot = await new_record.bot()
    writes = [Write(bot, document("a")), Write(bot, document("b"))]
    await new_record.transactions.begin(writes, uuid4(), HOUR)
    assert all(101 <= write.generation <= 103 for write in writes)
    state = await new_record.generations.state()
    assert (state.usable, state.first, state.last, state.blocks) == (True, 101, 103, [used])
    assert state.newest == writes[1].generation
    with pytest.raises(NoGeneration):
        await new_record.transactions.begin([Write(bot, document("c")) for _ in range(2)], uuid4(), HOUR)
    assert await new_record.texts(bot.bot_id, writes[0].doc_id) is None


async def test_a_block_that_follows_is_added_and_any_other_is_jumped_to(new_record: Record) -> None:
    blocks = [block(1, 10), block(11, 20), block(101, 110)]
    for one, span in zip(blocks, [(1, 10), (1, 20), (101, 110)], strict=True):
        await new_record.generations.use(one)
        state = await new_record.generations.state()
        assert (state.first, state.last) == span
    assert state.blocks == blocks
    assert state.newest == 100
    assert state.left == 10


async def test_a_block_is_not_used_when_a_newer_one_is(new_record: Record) -> None:
    newer, older = block(101, 110), block(1, 10)
    await new_record.generations.use(newer)
    await new_record.generations.use(older)
    state = await new_record.generations.state()
    assert (state.first, state.last, state.blocks) == (101, 110, [newer])


async def test_taking_over_gives_new_collections_to_bots_whose_vectors_are_not_known(new_record: Record) -> None:
    kept, other = block(1, 100), block(101, 200)
    await new_record.generations.use(kept)
    own, strange, away = await new_record.bot(), await new_record.bot(), await new_record.bot()
    await new_record.written(Write(own, document("own")))
    await new_record.generations.use(other)
    await new_record.generations.use(block(301, 400))
    await new_record.written(Write(strange, document("strange")))
    installation, last = uuid4(), block(501, 600)
    names = [own.milvus_collection, strange.milvus_collection]
    assert await new_record.generations.take_over(last, installation, names, [kept, other]) == 1
    state = await new_record.generations.state()
    assert (state.installation_id, state.first, state.last) == (installation, 501, 600)
    collections = [(await new_record.bots.get(bot.bot_id, None)).milvus_collection for bot in (own, strange, away)]  # type: ignore[union-attr]
    assert collections[::2] == [own.milvus_collection, away.milvus_collection]
    assert collections[1] != strange.milvus_collection
    assert await new_record.generations.take_over(block(601, 700), installation, [own.milvus_collection], []) == 1


async def test_collections_that_a_record_knows(new_record: Record) -> None:
    await new_record.generations.use(block(1, 100))
    bot = await new_record.bot()
    move = await new_record.migrations.begin(bot.bot_id, "new", 48)
    assert move
    assert await new_record.generations.known_collections() == {bot.milvus_collection, move.collection_name}
    assert await new_record.migrations.abort(bot.bot_id, uuid4(), HOUR)
    assert await new_record.generations.known_collections() == {bot.milvus_collection, move.collection_name}
