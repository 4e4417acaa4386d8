"""SIGTERM under load: accepted requests are answered, and clients of a load balancer see no error."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import BotClient, register, until
from tests.milvus_server import free_ports
from tests.operations.balancer import Balancer
from tests.operations.conftest import Served, served

CLIENTS = 16


class Load:
    """Clients that insert and search, one request after the other, over connections that they keep."""

    def __init__(self, url: str, bot: BotClient) -> None:
        self._url = url
        self._bot = bot
        self.answers: Counter[int] = Counter()
        self.failures: list[str] = []
        self.stopping = False

    async def run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as http:
            bot = BotClient(http, self._bot.bot_id)
            while not self.stopping:
                try:
                    if number % 4:
                        body = {"chat_bot_id": str(bot.bot_id), "query_text": f"question {number}"}
                        answer = await http.post("/search/query", json=body)
                    else:
                        answer = await http.post("/data/insert", json=bot.body(f"text {number}"))
                except httpx.ConnectError:
                    return  # The port is closed: this was accepted by nobody.
                except httpx.TransportError as exc:
                    self.failures.append(repr(exc))
                else:
                    self.answers[answer.status_code] += 1
                    if answer.status_code not in (200, 201):
                        self.failures.append(answer.text)


@asynccontextmanager
async def balanced(port: int) -> AsyncIterator[Balancer]:
    balancer = Balancer(port)
    running = asyncio.create_task(balancer.run())
    try:
        yield balancer
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_accepted_requests_are_answered(folder: Path, processes: str) -> None:
    async with served(folder, LOG_FORMAT="json", DRAIN_SECONDS="1", WEB_CONCURRENCY=processes) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            load = Load(server.url, await register(http))
            running = asyncio.create_task(load.run())
            await until(lambda: _answered(load, 50), seconds=30)
            server.process.terminate()

            async def not_ready() -> bool:
                answer = await http.get("/health/ready")
                return answer.status_code == 503 and answer.json()["status"] == "stopping"

            await until(not_ready, seconds=5)
            await running
            await asyncio.wait_for(server.process.wait(), 30)
        assert load.failures == []
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert {"Finished server process"} <= {line["message"][:23] for line in lines}


class Newcomers:
    """Clients that send each request over a connection of its own, until the port is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.outcomes: Counter[str] = Counter()
        self._clients = [asyncio.create_task(self._client()) for _ in range(64)]

    async def _client(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionRefusedError:
                return
            try:
                writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                self.outcomes[(await reader.read()).split(b"\r\n")[0].decode()] += 1
            except ConnectionError as exc:
                self.outcomes[repr(exc)] += 1
            finally:
                writer.close()

    async def more(self, count: int) -> None:
        wanted = self.outcomes.total() + count

        async def many() -> bool:
            return self.outcomes.total() >= wanted

        await until(many, seconds=30)

    async def refused(self) -> None:
        await asyncio.gather(*self._clients)


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_connections_that_reach_the_port_are_answered(folder: Path, processes: str) -> None:
    """Up to the moment at which the port is closed."""
    async with served(folder, DRAIN_SECONDS="0.2", WEB_CONCURRENCY=processes) as server:
        clients = Newcomers(server.port)
        await clients.more(200)
        server.process.terminate()
        await clients.refused()
    assert clients.outcomes.keys() == {"HTTP/1.1 200 OK"}


async def test_a_signal_to_all_processes_resets_no_connection(folder: Path) -> None:
    """As systemd sends it. Without a drain they close the port at once, before their parent can have told them."""
    async with served(folder, DRAIN_SECONDS="0", WEB_CONCURRENCY="2") as server:
        clients = Newcomers(server.port)
        await clients.more(200)
        for worker in workers(server):
            worker.terminate()
        server.process.terminate()
        await clients.refused()
    assert clients.outcomes.keys() == {"HTTP/1.1 200 OK"}


async def test_a_process_that_is_replaced_leaves_the_port_to_the_others(folder: Path) -> None:
    async with served(folder, DRAIN_SECONDS="0.2", WEB_CONCURRENCY="2") as server:
        clients = Newcomers(server.port)
        await clients.more(200)
        first, _ = workers(server)
        first.terminate()
        await asyncio.to_thread(first.wait, 30)

        async def replaced() -> bool:
            return len(workers(server)) == 2

        await until(replaced, seconds=30)
        await clients.more(200)
        server.process.terminate()
        await clients.refused()
    assert clients.outcomes.keys() == {"HTTP/1.1 200 OK"}


def workers(server: Served) -> list[psutil.Process]:
    """The WEB_CONCURRENCY processes."""
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if any("multiprocessing.spawn" in word for word in child.cmdline())]


async def test_a_rolling_restart_fails_no_request(folder: Path) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    async with AsyncExitStack() as stack:
        balancer = await stack.enter_async_context(balanced(port))
        old = [await stack.enter_async_context(served(folder)) for _ in range(2)]
        for server in old:
            balancer.add(server.port)
        await until(lambda: _ready(balancer, 2))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        load = Load(url, await register(http))
        running = asyncio.create_task(load.run())
        for server in old:
            new = await stack.enter_async_context(served(folder))
            balancer.add(new.port)
            await until(lambda: _ready(balancer, 3))
            server.process.terminate()
            await asyncio.wait_for(server.process.wait(), 30)
            balancer.remove(server.port)
        seen = load.answers.total()
        await until(lambda: _answered(load, seen + 50), seconds=30)
        load.stopping = True
        await running
        assert load.failures == []
        assert load.answers.total() >= 100


async def _answered(load: Load, count: int) -> bool:
    assert not load.failures
    return load.answers.total() >= count


async def _ready(balancer: Balancer, count: int) -> bool:
    return len(balancer.ready()) >= count
