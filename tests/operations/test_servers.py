"""Two server processes on one PostgreSQL and one Milvus, side by side and behind nginx."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.conftest import BotClient, register, until
from tests.milvus_server import free_ports
from tests.nginx import needs_nginx, nginx
from tests.operations.conftest import Served, served

WRITES = 200
CLIENTS = 8
LEASE_SECONDS, ROUND_SECONDS, SLACK_SECONDS = 3, 1, 3
SETTINGS = {"DRAIN_SECONDS": "2", "SAGA_LEASE_SECONDS": str(LEASE_SECONDS), "LOG_LEVEL": "WARNING"}


async def _reads_at_once(bot: BotClient, reader: httpx.AsyncClient) -> None:
    """By id and by search. Also what was just deleted."""
    missed: Counter[str] = Counter()
    named = {"chat_bot_id": str(bot.bot_id)}

    async def client(number: int) -> None:
        for attempt in range(WRITES // CLIENTS):
            text = f"number {number} {attempt} {uuid4().hex}"
            doc_id = await bot.insert(text)
            missed["read"] += (await reader.get(f"/data/document/{doc_id}", params=named)).status_code != 200
            found = await BotClient(reader, bot.bot_id).search(text, limit=3)
            missed["search"] += doc_id not in {result["doc_id"] for result in found}
            if attempt % 5 == 0:
                assert (await bot.http.delete(f"/data/document/{doc_id}", params=named)).is_success
                found = await BotClient(reader, bot.bot_id).search(text, limit=3)
                missed["deletion"] += doc_id in {result["doc_id"] for result in found}

    await asyncio.gather(*map(client, range(CLIENTS)))
    assert +missed == Counter()


async def _is_undone(bot: BotClient, other: httpx.AsyncClient, killed: Served, load: "Load") -> None:
    """What a killed server has left the other one undoes, within a lease and a round."""
    documents = [bot.body(*(f"{number} {chunk}" for chunk in range(20))) for number in range(200)]
    writing = asyncio.create_task(bot.http.post("/data/insert/batch", json={"documents": documents}))

    async def pending() -> bool:
        return bool((await other.get(f"/collection/{bot.bot_id}")).json()["sagas_in_flight"])

    async def undone() -> bool:
        return not await pending()

    await until(pending, seconds=20)
    killed.process.kill()
    killed_at = time.monotonic()
    with pytest.raises(httpx.TransportError):
        await writing
    await load.more(100)
    load.stopping = True
    await until(undone, seconds=20)
    assert time.monotonic() - killed_at < LEASE_SECONDS + ROUND_SECONDS + SLACK_SECONDS


class Load:
    """Clients of nginx, one request after the other. ``failures``: answers that are none of a success, by call."""

    def __init__(self, url: str, bot: BotClient) -> None:
        self._url = url
        self._bot = bot
        self.answers = 0
        self.failures: list[tuple[str, object]] = []
        self.stopping = False

    async def run(self) -> None:
        await asyncio.gather(*map(self._client, range(CLIENTS)))

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as http:
            while not self.stopping:
                name = ("search", "read", "insert with key", "insert")[number % 4]
                try:
                    answer = await self._call(http, name, number)
                except httpx.TransportError as exc:
                    self.failures.append((name, repr(exc)))
                    continue
                self.answers += 1
                if not answer.is_success:
                    problem = answer.json()
                    told = (answer.status_code, problem["code"], answer.headers.get("retry-after"))
                    self.failures.append((name, told))

    async def _call(self, http: httpx.AsyncClient, name: str, number: int) -> httpx.Response:
        if name == "search":
            body = {"chat_bot_id": str(self._bot.bot_id), "query_text": f"question {number}"}
            return await http.post("/search/query", json=body)
        if name == "read":
            return await http.get("/data/documents", params={"chat_bot_id": str(self._bot.bot_id), "limit": 1})
        headers = {"Idempotency-Key": uuid4().hex} if name == "insert with key" else {}
        return await http.post("/data/insert", json=self._bot.body(f"text {number}"), headers=headers)

    async def more(self, count: int) -> None:
        wanted = self.answers + count

        async def answered() -> bool:
            return self.answers >= wanted

        await until(answered, seconds=30)


@needs_nginx
async def test_servers_behind_nginx(folder: Path) -> None:
    """Both are restarted under load, and no request fails. One is killed: only what may have been done does."""
    port, *ports = free_ports(3)
    async with AsyncExitStack() as stack:

        async def client(url: str) -> httpx.AsyncClient:
            return await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))

        async def start(one: int) -> Served:
            return await stack.enter_async_context(served(folder, port=one, **SETTINGS))

        servers = [await start(one) for one in ports]
        http = await client(stack.enter_context(nginx(port, (ports[0], ports[1]))))
        writer, reader = [await client(server.url) for server in servers]
        bot = await register(writer)
        await _reads_at_once(bot, reader)

        load = Load(str(http.base_url), bot)
        running = asyncio.create_task(load.run())
        await load.more(100)
        for number, one in enumerate(ports):
            servers[number].process.terminate()
            await asyncio.wait_for(servers[number].process.wait(), 30)
            servers[number] = await start(one)
            await load.more(50)
        assert load.failures == []

        await _is_undone(BotClient(await client(servers[0].url), bot.bot_id), reader, servers[0], load)
        await running
        assert set(load.failures) <= {
            ("insert", (503, "unavailable", "2")),
            ("insert with key", (409, "request_in_flight", "1")),  # Until the lease of the killed server is over.
        }
        assert len(load.failures) <= CLIENTS
        await BotClient(http, bot.bot_id).insert("afterwards")
        await _large_and_forbidden(http)
        assert (await http.get(f"/collection/{bot.bot_id}/export")).content.count(b"\n") >= 3


async def _large_and_forbidden(http: httpx.AsyncClient) -> None:
    assert (await http.get("/metrics")).status_code == 404
    answer = await http.post("/data/insert", content=b" " * (33 << 20))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["content-type"] == "application/problem+json"
