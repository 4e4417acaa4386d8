"""Changes by filter beside other writers, and cut off in the middle."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.schemas.filter_tree import Condition, MetadataPath
from tests.conftest import BotClient, until
from tests.integration.conftest import Crash, FaultyIndex, assert_at_rest

KIND = Condition("eq", MetadataPath(("kind",)), "a")


async def left(bot: BotClient, services: Services) -> dict[int, Any]:
    documents, _ = await services.documents.list(bot.bot_id, None, 0, 100)
    return {document.doc_id: document.metadata for document in documents}


async def inserted(bot: BotClient, count: int) -> list[int]:
    return [await bot.insert("x", "y", metadata={"kind": "a"}) for _ in range(count)]


async def test_a_document_that_changes_while_it_is_locked_is_not_deleted(
    bot: BotClient, services: Services, db: Database
) -> None:
    """The delete waits for another transaction, and then tests the filter again."""
    first, second = await inserted(bot, 2)
    async with db.transaction() as conn:
        await conn.execute("""UPDATE documents SET metadata = '{"kind": "b"}' WHERE doc_id = $1""", first)
        deleting = asyncio.create_task(services.by_filter.delete(bot.bot_id, None, KIND, 10))

        async def waits() -> bool:
            return bool(await db.fetch("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"))

        await until(waits)
    done = await deleting
    assert (done.matching, set(done.chunks)) == (2, {second})
    assert await left(bot, services) == {first: {"kind": "b"}}


async def test_a_document_that_is_replaced_meanwhile(
    bot: BotClient, services: Services, at: Callable[..., asyncio.Event], db: Database, index: FaultyIndex
) -> None:
    """One version passes the filter, the next does not; a replacement that comes too late is a 409."""
    first, second = await inserted(bot, 2)

    async def replace() -> None:
        answer = await bot.http.put(f"/data/document/{first}", json=bot.body("new", metadata={"kind": "b"}))
        assert answer.status_code == 200

    at("delete.before", replace)
    done = await services.by_filter.delete(bot.bot_id, None, KIND, 10)
    assert set(done.chunks) == {second}
    go_on = asyncio.Event()
    reached = at("write.before_t2", go_on.wait)
    late = asyncio.create_task(bot.http.put(f"/data/document/{first}", json=bot.body("later")))
    await reached.wait()
    on_b = Condition("eq", MetadataPath(("kind",)), "b")
    assert set((await services.by_filter.delete(bot.bot_id, None, on_b, 10)).chunks) == {first}
    go_on.set()
    assert (await late).status_code == 409
    await assert_at_rest(db, index)
    assert await left(bot, services) == {}


@pytest.mark.parametrize("what", ["delete", "patch"])
async def test_cut_off_and_repeated(
    bot: BotClient,
    services: Services,
    at: Callable[..., asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
    db: Database,
    index: FaultyIndex,
    what: str,
) -> None:
    """The process dies after the second of three parts. The same call does the rest."""
    monkeypatch.setattr(services.by_filter, "_part", 2)
    ids = await inserted(bot, 5)
    parts = 0

    async def die() -> None:
        nonlocal parts
        parts += 1
        if parts == 2:
            raise Crash

    at("delete.after" if what == "delete" else "patch_many.after", die, times=9)
    for attempt in (1, 2):
        crashed = False
        try:
            if what == "delete":
                deleted = await services.by_filter.delete(bot.bot_id, None, KIND, 10)
            else:
                either = Condition("in", MetadataPath(("kind",)), ["a", "b"])
                patched = await services.by_filter.patch(bot.bot_id, None, either, {}, {"kind": "b"}, 10)
        except Crash:
            crashed = True
        assert crashed == (attempt == 1)
        kinds = [metadata["kind"] for metadata in (await left(bot, services)).values()]
        if what == "delete":
            assert kinds == (["a"] if attempt == 1 else [])
        else:
            assert kinds == (["b"] * 4 + ["a"] if attempt == 1 else ["b"] * 5)
    if what == "delete":
        assert (deleted.matching, set(deleted.chunks)) == (1, {ids[4]})
    else:
        assert (patched.changed, patched.unchanged) == ([ids[4]], ids[:4])
    await assert_at_rest(db, index)
