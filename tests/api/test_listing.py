"""Documents by filter, in pages and in an order, and the values of their metadata, through HTTP."""

from collections.abc import AsyncIterator
from typing import Any

from app.core.stores.postgres.database import Database
from tests.conftest import BotClient, register


async def query(bot: BotClient, status: int = 200, path: str = "query", **body: object) -> dict[str, Any]:
    answer = await bot.http.post(f"/data/documents/{path}", json={"chat_bot_id": str(bot.bot_id), **body})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def pages(bot: BotClient, **body: object) -> AsyncIterator[list[dict[str, Any]]]:
    cursor: str | None = None
    while True:
        page = await query(bot, **body, cursor=cursor)
        yield page["documents"]
        if (cursor := page["next_cursor"]) is None:
            return


async def test_pages_in_each_order(bot: BotClient) -> None:
    ids = [await bot.insert("x", title=title, metadata={"n": n}) for n, title in enumerate(["b", "가", "a", "B", "a"])]
    for sort in ("doc_id", "created_at", "updated_at", "title"):
        for order in ("asc", "desc"):
            found = [one async for page in pages(bot, sort=sort, order=order, limit=2) for one in page]
            assert sorted(one["doc_id"] for one in found) == ids
            values = [(one[sort], one["doc_id"]) for one in found]
            assert values == sorted(values, reverse=order == "desc")
    named = await bot.insert("x", external_id="z")
    found = [one async for page in pages(bot, sort="external_id", limit=2) for one in page]
    assert [(one["external_id"], one["doc_id"]) for one in found] == [("z", named), *((None, doc_id) for doc_id in ids)]
    detail = (await bot.http.get(f"/data/document/{ids[0]}", params={"chat_bot_id": str(bot.bot_id)})).json()
    first = await query(bot, limit=1)
    assert first["documents"] == [detail["document"]]
    assert first["total"] is None


async def test_a_filter_and_a_total(bot: BotClient) -> None:
    ids = [await bot.insert("x", tags=["a"] if n % 2 else ["b"], metadata={"n": n}) for n in range(5)]
    tagged = {"type": "contains", "key": "tags", "value": "a"}
    page = await query(bot, filter=tagged, limit=1, total=True)
    assert ([one["doc_id"] for one in page["documents"]], page["total"]) == ([ids[1]], 2)
    last = await query(bot, filter=tagged, limit=1, total=True, cursor=page["next_cursor"])
    assert ([one["doc_id"] for one in last["documents"]], last["total"], last["next_cursor"]) == ([ids[3]], 2, None)


async def test_a_cursor_of_another_query_is_refused(bot: BotClient) -> None:
    other = await register(bot.http)
    for each in (bot, other):
        for _ in range(3):
            await each.insert("x")
    tagged = {"type": "is_empty", "key": "tags", "value": True}
    cursor = (await query(bot, limit=1))["next_cursor"]
    assert (await query(bot, limit=2, cursor=cursor))["documents"]
    for asked, changed in (
        (bot, {"sort": "title"}),
        (bot, {"order": "desc"}),
        (bot, {"filter": tagged}),
        (other, {}),
        (bot, {"cursor": cursor[:-3]}),
        (bot, {"cursor": "none"}),
        (bot, {"cursor": ""}),
        (bot, {"cursor": "x" * 8_193}),
    ):
        problem = await query(asked, 422, **{"limit": 1, "cursor": cursor, **changed})
        assert [error["loc"] for error in problem["errors"]] == ["body.cursor"], problem
    by_title = (await query(bot, limit=1, filter=tagged, sort="title"))["next_cursor"]
    same = (await query(bot, limit=1, filter={**tagged}, sort="title", order="asc", cursor=by_title))["documents"]
    assert len(same) == 1


async def test_what_is_no_query(bot: BotClient) -> None:
    for path, wrong, loc in (
        ("query", {"filter": {"type": "eq", "key": "page_number", "value": 1}}, "body.filter"),
        ("query", {"sort": "author"}, "body.sort"),
        ("query", {"order": "up"}, "body.order"),
        ("query", {"limit": 1001}, "body.limit"),
        ("query", {"total": 1}, "body.total"),
        ("facets", {"key": "doc_id"}, "body.key"),
        ("facets", {"key": "page_number"}, "body.key"),
        ("facets", {"key": "created_at"}, "body.key"),
        ("facets", {"key": "language"}, "body.key"),
        ("facets", {"key": "tags", "limit": 0}, "body.limit"),
        ("facets", {}, "body.key"),
    ):
        problem = await query(bot, 422, path, **wrong)
        assert [error["loc"] for error in problem["errors"]] == [loc], problem


async def test_facets(bot: BotClient) -> None:
    for n in range(6):
        held = ["ko", "en"] if n == 0 else "ko" if n < 4 else n
        await bot.insert("x", tags=["a"] if n % 2 else ["a", "b"], metadata={"a.b": held})
    found = await query(bot, path="facets", key="tags")
    expected = [{"value": "a", "documents": 6}, {"value": "b", "documents": 3}]
    assert (found["values"], found["other_values"], found["other_documents"]) == (expected, 0, 0)
    found = await query(bot, path="facets", key=["metadata", "a.b"], limit=2)
    assert found["values"] == [{"value": "ko", "documents": 4}, {"value": "en", "documents": 1}]
    assert (found["other_values"], found["other_documents"]) == (2, 2)
    one = {"type": "contains", "key": "tags", "value": "b"}
    found = await query(bot, path="facets", key=["metadata", "a.b"], filter=one)
    assert [tuple(value.values()) for value in found["values"]] == [("ko", 2), ("en", 1), (4, 1)]


async def test_names_from_before_nfc(bot: BotClient, db: Database) -> None:
    await bot.insert("x", title="é")
    await bot.insert("x", title="f")
    await db.execute("UPDATE documents SET title = normalize(title, NFD)")
    await db.execute("UPDATE bot_registry SET unicode_normalized = false")
    for filter in (None, {"type": "in", "key": "title", "value": ["é", "f"]}):
        found = [page async for page in pages(bot, filter=filter, sort="title", limit=1)]
        assert [len(page) for page in found] == [1, 1]
        assert found[0][0]["title"] == "f"
    facets = await query(bot, path="facets", key="title", filter={"type": "eq", "key": "title", "value": "é"})
    assert facets["values"] == [{"value": "é", "documents": 1}]
