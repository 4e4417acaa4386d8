"""What the collector asks of Milvus."""

from collections.abc import Sequence

import pytest

from app.core.stores.postgres.database import Database
from tests.conftest import BotClient, until
from tests.doubles.memory_index import MemoryIndex
from tests.integration.conftest import no_work_left

LAST_INDEX = 65_535


class CountingIndex(MemoryIndex):
    def __init__(self) -> None:
        super().__init__()
        self.deleted: list[int] = []

    async def delete(self, collection: str, chunk_ids: Sequence[int]) -> None:
        self.deleted.append(len(chunk_ids))
        await super().delete(collection, chunk_ids)


@pytest.fixture
def index() -> CountingIndex:
    return CountingIndex()


async def test_one_chunk_far_up_is_deleted_without_naming_all_below_it(
    bot: BotClient, db: Database, index: CountingIndex
) -> None:
    body = bot.body("near", "far")
    body["chunks"] = [{"chunk_index": 3, "text": "near"}, {"chunk_index": LAST_INDEX, "text": "far"}]
    answer = await bot.http.post("/data/insert", json=body)
    assert answer.status_code == 201
    doc_id = answer.json()["doc_id"]
    assert (
        await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    ).status_code == 200
    await until(lambda: no_work_left(db))
    assert max(index.deleted) == 2
    assert await index.present(f"bot_{bot.bot_id.hex}", [(doc_id << 16, (doc_id + 1) << 16)]) == set()
