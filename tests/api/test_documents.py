"""/data through HTTP, over real PostgreSQL and the plain index."""

from tests.conftest import BotClient


async def test_inserted_document_is_found_read_replaced_and_deleted(bot: BotClient) -> None:
    doc_id = await bot.insert("광화문은 경복궁의 정문이다", "한강은 서울을 흐른다", title="서울")
    results = await bot.search("경복궁의 정문")
    assert [result["chunk_index"] for result in results] == [0, 1]
    assert results[0]["chunk_text"] == "광화문은 경복궁의 정문이다"

    read = await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    assert read.status_code == 200
    assert [chunk["text"] for chunk in read.json()["chunks"]] == ["광화문은 경복궁의 정문이다", "한강은 서울을 흐른다"]

    put = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("남산은 서울에 있다", title="산"))
    assert put.status_code == 200, put.text
    assert (put.json()["deleted_chunks"], put.json()["inserted_chunks"]) == (2, 1)
    assert [result["chunk_text"] for result in await bot.search("서울")] == ["남산은 서울에 있다"]

    gone = await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    assert (gone.status_code, gone.json()["deleted_chunks"]) == (200, 1)
    assert await bot.search("서울") == []
    again = await bot.http.delete(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    assert again.status_code == 404
