"""Sessions that make a bot equal to a client's documents, through HTTP."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.config import Settings
from app.core.services import Services
from app.core.stores.postgres.database import Database
from tests.api.keys import bearer, make_key
from tests.conftest import BotClient, in_process, register
from tests.doubles.counting_embedder import CountingEmbedder


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


async def start(bot: BotClient, status: int = 200) -> dict[str, Any]:
    answer = await bot.http.post("/data/sync", json={"chat_bot_id": str(bot.bot_id)})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def send(bot: BotClient, session: str, texts: dict[str, str], status: int = 200) -> dict[str, Any]:
    documents = [bot.body(text, external_id=name) for name, text in texts.items()]
    return await post(bot, session, {"documents": documents}, status)


async def post(bot: BotClient, session: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    url, params = f"/data/sync/{session}/documents", {"chat_bot_id": str(bot.bot_id)}
    answer = await bot.http.post(url, params=params, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def finish(bot: BotClient, session: str, *, delete: bool = True, status: int = 200) -> dict[str, Any]:
    body = {"chat_bot_id": str(bot.bot_id), "delete_missing": delete}
    answer = await bot.http.post(f"/data/sync/{session}/finish", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def names(bot: BotClient) -> list[str | None]:
    answer = await bot.http.get("/data/documents", params={"chat_bot_id": str(bot.bot_id)})
    return [document["external_id"] for document in answer.json()["documents"]]


async def test_three_syncs(bot: BotClient, embedder: CountingEmbedder) -> None:
    await bot.insert("by hand")
    embedder.embedded.clear()
    texts = {name: f"text of {name}" for name in "abcdef"}
    for changes, results, embedded, deleted in (
        ({}, ["created"] * 6, 6, 0),
        ({}, ["unchanged"] * 6, 0, 0),
        ({"a": None, "b": "changed", "g": "new"}, ["replaced", *["unchanged"] * 4, "created"], 2, 1),
    ):
        texts = {name: text for name, text in (texts | changes).items() if text is not None}
        embedder.embedded.clear()
        session = (await start(bot))["session_id"]
        done = await send(bot, session, texts)
        assert [one["result"] for one in done["results"]] == results
        assert len(embedder.embedded) == embedded
        assert await finish(bot, session) == {
            "status": "success",
            "deleted_documents": deleted,
            "deleted_chunks": deleted,
        }
        assert sorted(filter(None, await names(bot))) == sorted(texts)
    assert None in await names(bot)


async def test_without_the_end_nothing_is_deleted(bot: BotClient) -> None:
    await bot.insert("x", external_id="x")
    session = (await start(bot))["session_id"]
    await send(bot, session, {"a": "text"})
    assert (await start(bot, 409))["code"] == "sync_in_progress"
    assert await names(bot) == ["x", "a"]
    cancel = await bot.http.delete(f"/data/sync/{session}", params={"chat_bot_id": str(bot.bot_id)})
    assert cancel.status_code == 200
    assert (await finish(bot, session, status=404))["code"] == "sync_not_found"
    assert (await send(bot, session, {"b": "text"}, 404))["code"] == "sync_not_found"
    session = (await start(bot))["session_id"]
    assert (await finish(bot, session, delete=False))["deleted_documents"] == 0
    assert await names(bot) == ["x", "a"]


async def test_documents_that_are_not_stored_are_not_deleted(bot: BotClient) -> None:
    """One has a name, and stays. One cannot be read: it may be any, so that nothing is deleted."""
    for name in ("a", "b", "c"):
        await bot.insert("old", external_id=name)
    other = await register(bot.http)
    session = (await start(bot))["session_id"]
    wrong = [other.body("x", external_id="b"), bot.body("x"), bot.body("", external_id="c")]
    done = await post(bot, session, {"documents": [bot.body("new", external_id="a"), *wrong]})
    assert [one["result"] for one in done["results"]] == ["replaced", None, None, None]
    places = [one["error"]["errors"][0]["loc"] for one in done["results"][1:]]
    assert places == [
        "body.documents.1.document.chat_bot_id",
        "body.documents.2.document.external_id",
        "body.documents.3.chunks.0.text",
    ]
    assert (await finish(bot, session, status=409))["code"] == "sync_incomplete"
    assert await names(bot) == ["a", "b", "c"]
    assert (await finish(bot, session, delete=False))["deleted_documents"] == 0
    problem = await post(bot, session, {"documents": [bot.body("x", external_id="a")], "on_conflict": "skip"}, 422)
    assert problem["errors"][0]["loc"] == "body.on_conflict"
    assert problem["detail"].startswith("body.on_conflict: is an option of inserts; ")


async def test_another_accounts_session(services: Services, settings: Settings, db: Database) -> None:
    keys = [bearer(await make_key(db, account)) for account in ("mine", "theirs")]
    async with in_process(services, settings.model_copy(update={"auth_disabled": False})) as client:
        mine, theirs = (
            httpx.AsyncClient(transport=client._transport, base_url="http://server", headers=key) for key in keys
        )
        bot = await register(theirs, bot_name="theirs")
        await bot.insert("x", external_id="x")
        session = (await start(bot))["session_id"]
        stranger = BotClient(mine, bot.bot_id)
        own = await register(mine, bot_name="mine")
        for asked in (session, str(uuid4())):
            for tell in (
                await send(stranger, asked, {"a": "b"}, 404),
                await finish(stranger, asked, status=404),
                (await mine.delete(f"/data/sync/{asked}", params={"chat_bot_id": str(bot.bot_id)})).json(),
            ):
                assert tell["code"] == "bot_not_found"
            assert (await finish(own, asked, status=404))["code"] == "sync_not_found"
        assert (await finish(bot, session))["deleted_documents"] == 1
