"""While a store is unavailable every call ends in time with the right status. Afterwards the server recovers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

import httpx
import pytest

from app.core.operations.health import PROBE_SECONDS
from tests.conftest import BotClient, register, until
from tests.outages.conftest import LEASE, TIMEOUT, Outage
from tests.outages.proxy import FAULTS, Fault

CALL_SECONDS = 4 * TIMEOUT + 1
"""The longest duration of a call: T1, the vectors, T2 and the compensation may each wait for their store once."""
BACK_SECONDS = 10.0

Call = Callable[[BotClient, int], Awaitable[httpx.Response]]


async def insert(bot: BotClient, _: int) -> httpx.Response:
    return await bot.http.post("/data/insert", json=bot.body("during"))


async def insert_batch(bot: BotClient, _: int) -> httpx.Response:
    return await bot.http.post("/data/insert/batch", json={"documents": [bot.body("one"), bot.body("two")]})


async def replace(bot: BotClient, doc_id: int) -> httpx.Response:
    return await bot.http.put(f"/data/document/{doc_id}", json=bot.body("replaced"))


async def patch(bot: BotClient, doc_id: int) -> httpx.Response:
    body = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"seen": True}}
    return await bot.http.patch(f"/data/document/{doc_id}/metadata", json=body)


async def read(bot: BotClient, doc_id: int) -> httpx.Response:
    return await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})


async def delete(bot: BotClient, _: int) -> httpx.Response:
    return await bot.http.delete("/data/document/999999999", params={"chat_bot_id": str(bot.bot_id)})


async def search(bot: BotClient, _: int) -> httpx.Response:
    return await bot.http.post("/search/query", json={"chat_bot_id": str(bot.bot_id), "query_text": "before"})


async def create(bot: BotClient, _: int) -> httpx.Response:
    bot_id = uuid4()
    body = {"chat_bot_id": str(bot_id), "bot_name": "new", "collection_name": f"new_{bot_id.hex}"}
    return await bot.http.post("/collection/create", json=body)


async def ready(bot: BotClient, _: int) -> httpx.Response:
    """Readiness, once the last probe of the stores is too old to count."""
    end = time.monotonic() + 2 * PROBE_SECONDS
    while (answer := await bot.http.get("/health/ready")).status_code == 200 and time.monotonic() < end:
        await asyncio.sleep(0.05)
    return answer


EXPECTED: dict[str, dict[Call, set[int]]] = {
    "postgres": {call: {503} for call in (insert, insert_batch, replace, patch, read, delete, search, create, ready)},
    "milvus": {
        **{call: {503} for call in (insert, insert_batch, replace, search, create, ready)},
        patch: {200},
        read: {200},
        delete: {404},
    },
}
"""The statuses of each call, by the store that is unavailable."""


async def timed(call: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    start = time.monotonic()
    return await call, time.monotonic() - start


def check_answers(store: str, answers: list[tuple[Call, httpx.Response, float]]) -> None:
    for call, answer, seconds in answers:
        name = call.__name__
        assert answer.status_code in EXPECTED[store][call], f"{name}: {answer.status_code} {answer.text}"
        assert seconds < CALL_SECONDS, f"{name} took {seconds:.1f} s"
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1, name
            if call is not ready:
                assert answer.headers["content-type"] == "application/problem+json", name


async def check_back(outage: Outage, bot: BotClient, doc_id: int, text: str) -> None:
    """The server recovers in time. What was acknowledged is there; what was not is there completely or not at all."""
    start = time.monotonic()
    await until(outage.ready, seconds=BACK_SECONDS)
    answer = await insert(bot, doc_id)
    assert answer.status_code == 201, answer.text
    assert time.monotonic() - start < BACK_SECONDS
    stored = [chunk["text"] for chunk in (await read(bot, doc_id)).json()["chunks"]]
    assert stored in ([text], ["replaced"])
    assert stored[0] in {result["chunk_text"] for result in await bot.search(stored[0], limit=50)}


def connections(outage: Outage) -> int:
    return len(outage.process.net_connections(kind="unix"))


@pytest.fixture(scope="module")
def before() -> dict[str, float]:
    return {}


async def test_warm_up(outage: Outage, before: dict[str, float]) -> None:
    """The memory and files of the server after some work. The last test compares with them."""
    bot = await register(outage.http)
    for _ in range(20):
        await asyncio.gather(*(insert(bot, 0) for _ in range(16)), *(search(bot, 0) for _ in range(16)))
    before["memory"] = outage.process.memory_info().rss
    before["files"] = outage.process.num_fds()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("store", ["postgres", "milvus"])
async def test_calls_end_in_time_while_a_store_cannot_be_reached(outage: Outage, store: str, fault: Fault) -> None:
    bot = await register(outage.http)
    doc_id = await bot.insert("before")
    await outage.proxies[store].fail(fault)
    try:
        calls = [call for call in EXPECTED[store] for _ in range(3)]
        outcomes = await asyncio.gather(*(timed(call(bot, doc_id)) for call in calls))
        alive, seconds = await timed(outage.http.get("/health/live"))
        assert (alive.status_code, seconds < TIMEOUT) == (200, True)
    finally:
        await outage.proxies[store].restore()
    check_answers(store, [(call, *outcome) for call, outcome in zip(calls, outcomes, strict=True)])
    await check_back(outage, bot, doc_id, "before")


async def test_the_server_recovers_from_a_stop_of_postgresql(outage: Outage) -> None:
    bot = await register(outage.http)
    doc_id = await bot.insert("before")
    await asyncio.to_thread(outage.postgres.stop)
    try:
        outcomes = [(call, *await timed(call(bot, doc_id))) for call in EXPECTED["postgres"]]
    finally:
        await asyncio.to_thread(outage.postgres.start, "rag_db_chatty")
    check_answers("postgres", outcomes)
    await check_back(outage, bot, doc_id, "before")


async def test_the_server_recovers_from_a_kill_of_milvus(outage: Outage) -> None:
    bot = await register(outage.http)
    doc_id = await bot.insert("before")
    outage.lite.kill()
    try:
        outcomes = [(call, *await timed(call(bot, doc_id))) for call in EXPECTED["milvus"]]
    finally:
        await asyncio.to_thread(outage.lite.start)
    check_answers("milvus", outcomes)
    await check_back(outage, bot, doc_id, "before")


async def test_writes_of_a_server_paused_past_its_lease_are_done_or_undone(outage: Outage) -> None:
    """There is no other server, so that this one finishes or compensates its writes when it goes on."""
    bot = await register(outage.http)
    writing = [asyncio.create_task(bot.http.post("/data/insert", json=bot.body(f"n{n}"))) for n in range(8)]
    await asyncio.sleep(0.02)
    outage.process.suspend()
    await asyncio.sleep(LEASE + 1)
    outage.process.resume()
    for number, task in enumerate(writing):
        try:
            answer = await task
        except httpx.ReadError:
            status = 0  # When it goes on, the server first closes connections that were idle for long.
        else:
            status = answer.status_code
            assert status in {201, 503}, answer.text
        found = {result["chunk_text"] for result in await bot.search(f"n{number}", limit=50)}
        if status == 201:
            assert f"n{number}" in found
        else:
            assert f"n{number}" not in found


async def test_the_outages_leave_no_work_memory_or_files_behind(outage: Outage, before: dict[str, float]) -> None:
    async def at_rest() -> bool:
        bots = (await outage.http.get("/collection/list")).json()["bots"]
        details = [(await outage.http.get(f"/collection/{bot['chat_bot_id']}")).json() for bot in bots]
        return not any(detail["sagas_in_flight"] or detail["vector_gc_backlog"] for detail in details)

    await until(at_rest, seconds=60)
    code, output = await outage.verify()
    assert (code, output.splitlines()[-1]) == (0, "stores agree"), output
    assert outage.process.memory_info().rss < before["memory"] + (64 << 20)
    assert outage.process.num_fds() <= before["files"] + 8
