"""What LoadPort promises, and GarbagePort about deferred rows, checked on plain memory and PostgreSQL."""

from datetime import timedelta
from uuid import UUID, uuid4

from app.core.write.write import Write
from tests.contract.records import HOUR, NO_TIME, PAST, Record, document

ONE, TWO = uuid4(), uuid4()
SECOND = timedelta(seconds=1)


async def bots(record: Record, count: int) -> list[str]:
    """The names of the collections of new bots, which are loaded. The first was used last, the last long ago."""
    names = [(await record.bot()).milvus_collection for _ in range(count)]
    await record.loads.observe(names, {})
    return names


async def state(record: Record, name: str) -> str | None:
    found = (await record.loads.states([name])).get(name)
    return found.state if found else None


async def test_one_process_loads_a_collection(record: Record) -> None:
    name = (await record.bot()).milvus_collection
    assert await state(record, name) is None
    assert await record.loads.claim_load(name, ONE, HOUR) == "granted"
    assert await record.loads.claim_load(name, TWO, HOUR) == "load"
    assert await record.loads.claim_load(name, ONE, HOUR) == "granted"  # The first answer may have been lost.
    assert await state(record, name) == "loading"
    await record.loads.end(name, TWO, loaded=True)
    assert await state(record, name) == "loading"
    await record.loads.end(name, ONE, loaded=True)
    assert await state(record, name) == "loaded"
    assert await record.loads.claim_load(name, TWO, HOUR) == "granted"


async def test_a_lease_that_is_over_is_taken(record: Record) -> None:
    name = (await record.bot()).milvus_collection
    assert await record.loads.claim_load(name, ONE, PAST) == "granted"
    assert await state(record, name) == "released"
    assert await record.loads.claim_load(name, TWO, HOUR) == "granted"
    await record.loads.end(name, ONE, loaded=True)
    assert await state(record, name) == "loading"
    await record.loads.end(name, TWO, loaded=None)  # The load failed.
    assert await state(record, name) == "released"


async def released(record: Record, bound: int, token: UUID, lease: timedelta = HOUR) -> list[str]:
    """The collections whose release was announced, and begun while nothing prevents it."""
    announced = await record.loads.announce_releases(bound, NO_TIME, token, lease)
    return [name for name in announced if await record.loads.begin_release(name, token, HOUR, NO_TIME)]


async def test_the_least_recently_used_are_released_and_one_at_a_time(record: Record) -> None:
    first, second, third = await bots(record, 3)
    assert (await record.loads.observe([first, second, third], {third: 0, first: 0, second: 0})).loaded == 3
    for name in (second, first, third):
        await record.loads.claim_load(name, ONE, HOUR)
        await record.loads.end(name, ONE, loaded=True)
    assert await record.loads.announce_releases(3, NO_TIME, ONE, HOUR) == []
    assert await record.loads.announce_releases(2, HOUR, ONE, HOUR) == []
    assert set(await record.loads.announce_releases(1, NO_TIME, ONE, HOUR)) == {second, first}
    assert await state(record, second) == "loaded"
    assert await record.loads.announce_releases(1, NO_TIME, TWO, HOUR) == []  # As many as are to be released.
    assert not await record.loads.begin_release(second, TWO, HOUR, NO_TIME)
    assert not await record.loads.begin_release(second, ONE, HOUR, HOUR)
    assert await record.loads.begin_release(second, ONE, HOUR, NO_TIME)
    assert not await record.loads.begin_release(first, ONE, HOUR, NO_TIME)
    assert await state(record, second) == "released"
    assert await record.loads.claim_load(second, TWO, HOUR) == "release"
    assert (await record.loads.observe([first, second, third], {})).leaving == {first, second}
    await record.loads.end(second, ONE, loaded=False)
    assert await record.loads.begin_release(first, ONE, HOUR, NO_TIME)
    await record.loads.end(first, ONE, loaded=False)
    assert await released(record, 1, TWO) == []
    assert await state(record, third) == "loaded"


async def test_a_use_prevents_the_release_that_was_announced(record: Record) -> None:
    (name,) = await bots(record, 1)
    assert await record.loads.announce_releases(0, NO_TIME, ONE, HOUR) == [name]
    assert await record.loads.claim_load(name, TWO, HOUR) == "granted"
    assert not await record.loads.begin_release(name, ONE, HOUR, NO_TIME)
    await record.loads.end(name, TWO, loaded=True)
    assert not await record.loads.begin_release(name, ONE, HOUR, NO_TIME)
    assert await record.loads.announce_releases(0, NO_TIME, ONE, PAST) == [name]
    assert not await record.loads.begin_release(name, ONE, HOUR, NO_TIME)


async def test_pinned_bots_and_those_that_are_being_loaded_are_not_released(record: Record) -> None:
    pinned, loading = await record.bot(), await record.bot()
    assert await record.bots.update(pinned.bot_id, None, {"pinned": True})
    assert (await record.bots.get_many([pinned.bot_id], None))[pinned.bot_id].pinned
    names = [pinned.milvus_collection, loading.milvus_collection]
    await record.loads.observe(names, {})
    assert await record.loads.claim_load(loading.milvus_collection, ONE, HOUR) == "granted"
    assert await released(record, 0, TWO) == []
    await record.loads.end(loading.milvus_collection, ONE, loaded=True)
    assert await released(record, 0, TWO) == [loading.milvus_collection]


async def test_what_is_seen_in_milvus_counts(record: Record) -> None:
    name, other = (await record.bot()).milvus_collection, (await record.bot()).milvus_collection
    assert (await record.loads.observe([name, other, "of_nobody"], {})).loaded == 2
    assert set(await record.loads.states([name, other, "of_nobody"])) == {name, other}
    used = (await record.loads.states([name]))[name].last_used_at
    assert used is not None
    assert (await record.loads.observe([other], {name: 3600.0})).loaded == 1
    assert await state(record, name) == "released"
    found = (await record.loads.states([name]))[name]
    assert found.last_used_at == used
    assert (await record.loads.observe([name, other], {})).loaded == 2
    assert ((await record.loads.states([name]))[name].last_used_at or used) > used


async def test_a_lease_overrules_what_was_seen_before_it(record: Record) -> None:
    name = (await record.bot()).milvus_collection
    await record.loads.observe([name], {})
    assert await released(record, 0, ONE) == [name]
    await record.loads.observe([name], {})
    assert await state(record, name) == "released"
    await record.loads.end(name, ONE, loaded=False)
    assert await record.loads.claim_load(name, ONE, HOUR) == "granted"
    await record.loads.observe([], {})
    assert await state(record, name) == "loading"


async def test_collections_without_a_bot_are_forgotten(record: Record) -> None:
    bot = await record.bot()
    await record.loads.observe([bot.milvus_collection], {})
    await record.bots.begin_deletion(bot.bot_id, None, ONE, HOUR)
    assert await record.bots.finish_deletion(bot.bot_id)
    await record.loads.observe([bot.milvus_collection], {})
    assert await record.loads.states([bot.milvus_collection]) == {}


async def test_deferred_garbage_is_due_when_its_collection_is_resumed(record: Record) -> None:
    bot, other = await record.bot(), await record.bot()
    writes = [Write(bot, document("a")), Write(other, document("a"))]
    await record.written(*writes)
    for write in writes:
        assert write.doc_id is not None
        await record.documents.delete(write.bot.bot_id, [write.doc_id])
    rows = await record.garbage.claim(NO_TIME)
    assert len(rows) == 2
    await record.garbage.defer(rows)
    names = {bot.milvus_collection, other.milvus_collection}
    assert await record.garbage.deferred() & names == names
    assert await record.garbage_due() == {}
    await record.garbage.resume([bot.milvus_collection])
    assert list(await record.garbage_due()) == [writes[0].doc_id]
    assert await record.garbage.deferred() & names == {other.milvus_collection}
