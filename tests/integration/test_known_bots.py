"""Optimistic reads of a bot's row by inserts: they begin with the cached row, and T1 checks it."""

from uuid import UUID

import httpx
import pytest

from app.core.stores.postgres.database import Database
from tests.conftest import BotClient, register


@pytest.fixture
async def known(bot: BotClient) -> BotClient:
    """A bot whose row is cached."""
    await bot.insert("one")
    return bot


async def rows_of(db: Database, bot_id: UUID) -> int:
    """Numbers of documents and of sagas."""
    counts = [f"(SELECT count(*) FROM {table} WHERE bot_id = $1)" for table in ("documents", "sagas")]
    row = await db.fetchrow(f"SELECT {' + '.join(counts)} AS n", bot_id)
    assert row is not None
    return int(row["n"])


async def remove(bot: BotClient) -> None:
    assert (await bot.http.delete(f"/collection/{bot.bot_id}")).status_code == 200


async def register_again(bot: BotClient, **values: object) -> None:
    body = {
        "chat_bot_id": str(bot.bot_id),
        "bot_name": "bot",
        "collection_name": f"bot_{bot.bot_id.hex}",
        **values,
    }
    assert (await bot.http.post("/collection/create", json=body)).status_code == 201


async def test_a_bot_that_is_gone_is_not_found(known: BotClient, db: Database) -> None:
    await remove(known)
    answer = await known.http.post("/data/insert", json=known.body("two"))
    assert (answer.status_code, answer.json()["code"]) == (404, "bot_not_found")
    assert await rows_of(db, known.bot_id) == 0


async def test_a_bot_that_was_registered_anew_is_found(known: BotClient) -> None:
    await remove(known)
    await register_again(known)
    await known.insert("two")
    assert [one["chunk_text"] for one in await known.search("two", mode="dense")] == ["two"]


async def test_what_was_another_accounts_meanwhile_is_not_written_to(client: httpx.AsyncClient, db: Database) -> None:
    bot = await register(client, account_name="mine")
    mine = bot.body("one") | {"account_name": "mine"}
    assert (await client.post("/data/insert", json=mine)).status_code == 201
    await remove(bot)
    await register_again(bot, account_name="theirs")
    assert (await client.post("/data/insert", json=mine)).status_code == 404
    assert await rows_of(db, bot.bot_id) == 0


async def test_of_a_batch_only_what_is_for_a_missing_bot_fails(known: BotClient, client: httpx.AsyncClient) -> None:
    other = await register(client)
    await other.insert("one")
    await remove(known)
    body = {"documents": [known.body("a"), other.body("b"), known.body("c"), (await register(client)).body("d")]}
    answer = (await client.post("/data/insert/batch", json=body)).json()
    assert [result["success"] for result in answer["results"]] == [False, True, False, True]
    assert {result["error"]["code"] for result in answer["results"] if not result["success"]} == {"bot_not_found"}
    assert {one["chunk_text"] for one in await other.search("b", mode="dense")} == {"one", "b"}
