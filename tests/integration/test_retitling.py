"""A PATCH of a title also changes by which words the chunks are found."""

import asyncio
from contextlib import suppress
from uuid import uuid4

import httpx
import pytest

from app.core.stores.postgres.database import Database
from tests.conftest import BotClient, register
from tests.integration.conftest import Crash, FaultyIndex, assert_at_rest, expire


async def patch(bot: BotClient, doc_id: int, **updates: object) -> httpx.Response:
    body = {"chat_bot_id": str(bot.bot_id), "metadata_updates": updates}
    return await bot.http.patch(f"/data/document/{doc_id}/metadata", json=body)


async def found(bot: BotClient, text: str) -> list[object]:
    return [result["chunk_text"] for result in await bot.search(text, mode="lexical")]


async def test_found_by_the_new_title_and_not_by_the_old_one(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    doc_id = await bot.insert("화면이 켜지지 않으면", "버튼을 누른다", title="갤럭시 설명서", author="가")
    await bot.insert("다른 글", title="다른 제목")
    assert len(await found(bot, "갤럭시")) == 2
    answer = await patch(bot, doc_id, title="아이폰 설명서", color="red")
    assert answer.status_code == 200, answer.text
    assert await found(bot, "갤럭시") == []
    assert sorted(map(str, await found(bot, "아이폰"))) == ["버튼을 누른다", "화면이 켜지지 않으면"]
    stored = (await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})).json()
    assert stored["document"]["updated_at"] == answer.json()["updated_at"]
    assert (stored["document"]["author"], stored["document"]["metadata"]) == ("가", {"color": "red"})
    await assert_at_rest(db, index)


async def test_other_fields_write_nothing_to_milvus(bot: BotClient, db: Database) -> None:
    doc_id = await bot.insert("글", title="제목")
    before = await db.fetch("SELECT generation FROM documents")
    assert (await patch(bot, doc_id, author="나", color="red")).status_code == 200
    assert await db.fetch("SELECT generation FROM documents") == before


async def test_a_bot_without_titles_writes_nothing_to_milvus(bot: BotClient, db: Database) -> None:
    await db.execute("UPDATE bot_registry SET title_in_lexical = false")
    doc_id = await bot.insert("글", title="제목")
    before = await db.fetch("SELECT generation FROM documents")
    assert (await patch(bot, doc_id, title="새것")).status_code == 200
    assert await db.fetch("SELECT generation FROM documents") == before
    assert await found(bot, "새것") == []


async def test_by_filter(bot: BotClient, db: Database, index: FaultyIndex) -> None:
    for number in range(3):
        await bot.insert(f"글 {number}", title="옛것", metadata={"number": number})
    body = {
        "chat_bot_id": str(bot.bot_id),
        "filter": {"type": "gte", "key": "metadata.number", "value": 1},
        "max_documents": 10,
        "metadata_updates": {"title": "새것"},
    }
    answer = await bot.http.patch("/data/documents/metadata", json=body)
    assert answer.status_code == 200, answer.text
    assert sorted(map(str, await found(bot, "새것"))) == ["글 1", "글 2"]
    assert await found(bot, "옛것") == ["글 0"]
    await assert_at_rest(db, index)


@pytest.mark.parametrize("point", ["write.after_t1", "write.after_upsert", "write.after_t2"])
async def test_repeated_after_a_crash(bot: BotClient, db: Database, index: FaultyIndex, at, point: str) -> None:  # type: ignore[no-untyped-def]
    doc_id = await bot.insert("글", title="옛것")
    at(point, Crash())
    with suppress(Crash):
        await patch(bot, doc_id, title="새것")
    await expire(db)
    async with asyncio.timeout(10):
        while (await patch(bot, doc_id, title="새것")).status_code != 200:
            await asyncio.sleep(0.1)
    assert await found(bot, "새것") == ["글"]
    assert await found(bot, "옛것") == []
    await assert_at_rest(db, index)


async def test_the_last_of_concurrent_titles_is_found(bot: BotClient) -> None:
    doc_id = await bot.insert("글", title="처음")
    titles = [f"제목{number}번" for number in range(4)]
    answers = await asyncio.gather(*(patch(bot, doc_id, title=title) for title in titles))
    assert {answer.status_code for answer in answers} <= {200, 503}
    stored = (await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})).json()
    last = stored["document"]["title"]
    assert last in titles
    if all(answer.status_code == 200 for answer in answers):
        scores = {title: (await bot.search(title, mode="lexical"))[0]["lexical_score"] for title in titles}
        assert max(scores, key=lambda title: float(str(scores[title]))) == last


async def test_a_missing_document_stays_a_404(client: httpx.AsyncClient) -> None:
    bot = await register(client)
    assert (await patch(bot, 999, title="x")).status_code == 404
    body = {"chat_bot_id": str(uuid4()), "metadata_updates": {"title": "x"}}
    assert (await client.patch("/data/document/1/metadata", json=body)).status_code == 404
