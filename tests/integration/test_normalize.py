"""Documents that were stored before names were in NFC: filtered right from the start, rewritten by a command."""

import asyncio
import unicodedata
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.cli import normalize
from app.config import Settings
from app.core.operations.normalize import Normalizer
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.normalize import NormalizeStore
from app.schemas.operation_rows import DocumentFields
from tests.conftest import BotClient

NAME, KEY = "보고서", "부서"
WORD = "낱말"


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


async def of_before(db: Database, bot_id: UUID) -> None:
    """As an older server would have left the bot's documents."""
    await db.execute(
        "UPDATE documents SET title = $2, author = $2, tags = ARRAY[$2], metadata = $3 WHERE bot_id = $1",
        bot_id,
        nfd(NAME),
        {nfd(KEY): [nfd("관광")], "\n\u0303": 1},
    )
    await db.execute("UPDATE bot_registry SET unicode_normalized = false WHERE bot_id = $1", bot_id)


FILTERS: list[dict[str, Any]] = [
    {"type": "eq", "key": "title", "value": NAME},
    {"type": "in", "key": "author", "value": [NAME]},
    {"type": "contains", "key": "tags", "value": NAME},
    {"type": "contains", "key": f"metadata.{KEY}", "value": "관광"},
    {"type": "eq", "key": f"metadata.{KEY}", "value": ["관광"]},
    {"type": "not", "filter": {"type": "ne", "key": "title", "value": NAME}},
]


async def check_found(bot: BotClient, expected: int) -> None:
    for filter in FILTERS:
        for mode in ("dense", "lexical", "hybrid"):
            assert len(await bot.search(WORD, mode=mode, limit=10, filter=filter)) == expected, (filter, mode)


async def normalized(db: Database, bot_id: UUID) -> bool:
    rows = await db.fetch("SELECT unicode_normalized FROM bot_registry WHERE bot_id = $1", bot_id)
    return bool(rows[0]["unicode_normalized"])


async def test_filters_find_them_before_and_after(
    bot: BotClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await normalized(db, bot.bot_id)
    monkeypatch.setattr("app.core.operations.normalize.PAGE_DOCUMENTS", 3)
    for number in range(7):
        await bot.insert(f"{WORD} {number}")
    await check_found(bot, 0)
    await of_before(db, bot.bot_id)
    await check_found(bot, 7)
    normalizer = Normalizer(NormalizeStore(db))
    assert bot.bot_id in await normalizer.bots(None)

    class KilledError(Exception):
        pass

    def killed_after_a_page(documents: int) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        await normalizer.run(bot.bot_id, killed_after_a_page)
    await check_found(bot, 7)
    assert not await normalized(db, bot.bot_id)
    looked_at: list[int] = []
    done = await normalizer.run(bot.bot_id, looked_at.append)
    assert (done.rewritten, done.collisions, sum(looked_at)) == (4, [], 7)
    assert await normalizer.bots(None) == []
    assert await normalized(db, bot.bot_id)
    await check_found(bot, 7)
    rows = await db.fetch("SELECT DISTINCT title, author, tags, metadata FROM documents WHERE bot_id = $1", bot.bot_id)
    assert [tuple(row) for row in rows] == [(NAME, NAME, [NAME], {KEY: ["관광"], "\n\u0303": 1})]


async def test_the_command(
    bot: BotClient, db: Database, address: PostgresAddress, capsys: pytest.CaptureFixture[str]
) -> None:
    doc_id = await bot.insert(WORD)
    await of_before(db, bot.bot_id)
    place = {"postgres_host": address.host, "postgres_port": address.port, "postgres_user": address.user}
    settings = Settings(_env_file=None, postgres_db_name=address.database, **place)
    both = {KEY: "new", nfd(KEY): "old"}
    await db.execute("UPDATE documents SET metadata = $2 WHERE bot_id = $1", bot.bot_id, both)
    assert await normalize(settings, None) == 1
    assert f"bot={bot.bot_id} doc_id={doc_id} has the metadata key {KEY!r} in two forms" in capsys.readouterr().out
    await db.execute("UPDATE documents SET metadata = '{}' WHERE bot_id = $1", bot.bot_id)
    assert await normalize(settings, None) == 0
    assert capsys.readouterr().out.endswith("all names are in NFC\n")
    assert await normalized(db, bot.bot_id)


async def test_updated_at_stays_but_for_a_microsecond(bot: BotClient, db: Database) -> None:
    """It is part of the ETag, which changes with what a GET shows."""
    await bot.insert(WORD)
    await of_before(db, bot.bot_id)
    before = await db.fetchrow("SELECT updated_at FROM documents WHERE bot_id = $1", bot.bot_id)
    assert (await Normalizer(NormalizeStore(db)).run(bot.bot_id, lambda _: None)).rewritten == 1
    after = await db.fetchrow("SELECT updated_at FROM documents WHERE bot_id = $1", bot.bot_id)
    assert before
    assert after
    assert after["updated_at"] - before["updated_at"] == timedelta(microseconds=1)


async def test_keys_that_collide_are_told_and_a_patch_decides(bot: BotClient, db: Database) -> None:
    doc_id = await bot.insert(WORD)
    both = {KEY: "new", nfd(KEY): "old", "deep": 1}
    await db.execute("UPDATE documents SET title = $2, metadata = $3 WHERE bot_id = $1", bot.bot_id, nfd(NAME), both)
    await db.execute("UPDATE bot_registry SET unicode_normalized = false WHERE bot_id = $1", bot.bot_id)
    normalizer = Normalizer(NormalizeStore(db))
    done = await normalizer.run(bot.bot_id, lambda _: None)
    assert (done.rewritten, done.collisions) == (1, [(doc_id, KEY)])
    assert not await normalized(db, bot.bot_id)
    rows = await db.fetch("SELECT title, metadata FROM documents WHERE bot_id = $1", bot.bot_id)
    assert [tuple(row) for row in rows] == [(NAME, both)]
    answer = await bot.http.patch(
        f"/data/document/{doc_id}/metadata",
        json={"chat_bot_id": str(bot.bot_id), "metadata_updates": {KEY: "kept"}},
    )
    assert answer.status_code == 200
    rows = await db.fetch("SELECT metadata FROM documents WHERE bot_id = $1", bot.bot_id)
    assert rows[0]["metadata"] == {KEY: "kept", "deep": 1}
    assert (await normalizer.run(bot.bot_id, lambda _: None)).collisions == []
    assert await normalized(db, bot.bot_id)


async def test_a_patch_meanwhile_is_not_lost(bot: BotClient, db: Database) -> None:
    doc_id = await bot.insert(WORD)
    await of_before(db, bot.bot_id)
    patching: list[asyncio.Task[httpx.Response]] = []
    body = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"author": "other"}}

    class Watched(NormalizeStore):
        async def rewrite(self, bot_id: UUID, after: int, limit: int, change: Any) -> Any:
            def patched(doc_id: int, old: DocumentFields) -> DocumentFields:
                """Called while the rows are locked."""
                sent = bot.http.patch(f"/data/document/{doc_id}/metadata", json=body)
                patching.append(asyncio.create_task(sent))
                new: DocumentFields = change(doc_id, old)
                return new

            return await super().rewrite(bot_id, after, limit, patched)

    await Normalizer(Watched(db)).run(bot.bot_id, lambda _: None)
    assert [(await task).status_code for task in patching] == [200]
    answer = await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})
    document = answer.json()["document"]
    assert (document["title"], document["author"]) == (NAME, "other")
