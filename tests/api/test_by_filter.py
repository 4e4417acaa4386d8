"""Documents deleted and patched by filter, through HTTP."""

from typing import Any

import httpx
import pytest

from app.core.stores.postgres.database import Database
from tests.conftest import BotClient

KIND = {"type": "eq", "key": "metadata.kind", "value": "a"}


@pytest.fixture
async def ids(bot: BotClient) -> list[int]:
    """Documents of the kinds a, b, a, b, a, each of two chunks."""
    return [await bot.insert("one", "two", metadata={"kind": "ab"[number % 2]}) for number in range(5)]


async def call(bot: BotClient, method: str, path: str, status: int = 200, **body: object) -> dict[str, Any]:
    body = {"chat_bot_id": str(bot.bot_id), "filter": KIND, "max_documents": 10, **body}
    answer: httpx.Response = await bot.http.request(method, f"/data/documents/{path}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def left(bot: BotClient) -> list[dict[str, Any]]:
    answer = await bot.http.get("/data/documents", params={"chat_bot_id": str(bot.bot_id)})
    found: list[dict[str, Any]] = answer.json()["documents"]
    return found


async def test_delete(bot: BotClient, ids: list[int]) -> None:
    counted = await call(bot, "POST", "delete", dry_run=True)
    numbers = ("matching_documents", "deleted_documents", "deleted_chunks")
    assert [counted[name] for name in numbers] == [3, 0, 0]
    assert len(await left(bot)) == 5
    done = await call(bot, "POST", "delete", max_documents=3)
    assert [done[name] for name in numbers] == [3, 3, 6]
    assert [one["doc_id"] for one in await left(bot)] == [ids[1], ids[3]]
    assert {one["doc_id"] for one in await bot.search("one", limit=10)} == {ids[1], ids[3]}
    again = await call(bot, "POST", "delete")
    assert [again[name] for name in numbers] == [0, 0, 0]


async def test_patch_of_what_is_filtered_by(bot: BotClient, ids: list[int]) -> None:
    updates = {"kind": "c", "author": "m"}
    numbers = ("status", "matching_documents", "changed_documents", "unchanged_documents", "too_large")
    counted = await call(bot, "PATCH", "metadata", metadata_updates=updates, dry_run=True)
    assert [counted[name] for name in numbers] == ["success", 3, 0, 0, []]
    done = await call(bot, "PATCH", "metadata", metadata_updates=updates)
    assert [done[name] for name in numbers] == ["success", 3, 3, 0, []]
    documents = await left(bot)
    found = [(one["metadata"]["kind"], one["author"]) for one in documents]
    assert found == [("c", "m"), ("b", None)] * 2 + [("c", "m")]
    # What was patched already is not written again.
    either = {"type": "in", "key": "doc_id", "value": ids}
    again = await call(bot, "PATCH", "metadata", metadata_updates=updates, filter=either)
    assert [again[name] for name in numbers] == ["success", 5, 2, 3, []]
    assert [one["updated_at"] for one in await left(bot)][::2] == [one["updated_at"] for one in documents][::2]


async def test_a_document_whose_metadata_would_be_too_large(bot: BotClient, ids: list[int]) -> None:
    large = await bot.insert("x", metadata={"kind": "a", "note": "x" * 65_000})
    done = await call(bot, "PATCH", "metadata", metadata_updates={"more": "y" * 1_000})
    assert (done["status"], done["changed_documents"], done["too_large"]) == ("partial", 3, [large])


@pytest.mark.parametrize(("method", "path"), [("POST", "delete"), ("PATCH", "metadata")])
async def test_nothing_is_done(bot: BotClient, ids: list[int], method: str, path: str) -> None:
    body: dict[str, object] = {"metadata_updates": {"new": 1}} if method == "PATCH" else {}
    before = await left(bot)
    for wrong, loc, code in (
        ({"max_documents": 2}, "body.max_documents", "too_many_documents"),
        ({"max_documents": None}, "body.max_documents", "invalid_input"),
        ({"max_documents": 100_001}, "body.max_documents", "invalid_input"),
        ({"filter": None}, "body.filter", "invalid_input"),
        ({"filter": {"type": "eq", "key": "page_number", "value": 1}}, "body.filter", "invalid_input"),
        ({"dry_run": "no"}, "body.dry_run", "invalid_input"),
    ):
        problem = await call(bot, method, path, 422, **{**body, **wrong})
        assert problem["code"] == code
        assert [error["loc"] for error in problem["errors"]] == [loc]
    assert await left(bot) == before


async def test_names_from_before_nfc(bot: BotClient, db: Database) -> None:
    await bot.insert("x", title="é")
    kept = await bot.insert("x", title="f")
    await db.execute("UPDATE documents SET title = normalize(title, NFD)")
    await db.execute("UPDATE bot_registry SET unicode_normalized = false")
    done = await call(bot, "POST", "delete", filter={"type": "eq", "key": "title", "value": "é"})
    assert done["deleted_documents"] == 1
    assert [one["doc_id"] for one in await left(bot)] == [kept]
