"""Milvus loses its data under a running or a stopped server: no 200 has fewer results, and all vectors come back."""

import asyncio
import os
import pty
import re
import sys
import termios
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from pymilvus import MilvusClient

from tests.conftest import BotClient, register, until
from tests.embedding.openai_server import Body, OpenAIServer, Reply, good
from tests.lite_server import LiteServer
from tests.milvus_server import MilvusServer, free_ports
from tests.outages.conftest import ROOT, served
from tests.outages.proxy import Proxy

BOTS, DOCUMENTS = 3, 24
BACK_SECONDS = 90


@pytest.fixture(scope="module", params=["milvus-lite", "milvus-server"])
def milvus(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a Milvus that the test can reach as well."""
    with TemporaryDirectory(prefix="chat-memory-lost-") as name:
        folder = Path(name) / "milvus"
        folder.mkdir()
        with LiteServer(folder) if request.param == "milvus-lite" else MilvusServer(folder) as server:
            yield server.uri


@asynccontextmanager
async def stores(uri: str) -> AsyncIterator[dict[str, str]]:
    """The environment of servers that share one PostgreSQL and this Milvus, both empty."""
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(empty, uri)
        name = stack.enter_context(TemporaryDirectory(prefix="chat-memory-lost-"))
        os.chmod(name, 0o755)
        if uri.startswith("unix:"):  # pymilvus takes no such address from the environment.
            (port,) = free_ports(1)
            proxy = Proxy(port, Path(uri.removeprefix("unix:")))
            await proxy.start()
            stack.push_async_callback(proxy.stop)
            uri = f"http://127.0.0.1:{port}"
        yield os.environ | {
            "DATA_DIR": f"{name}/data",
            "MILVUS_URI": uri,
            "MILVUS_TIMEOUT": "3",
            "SAGA_LEASE_SECONDS": "4",
            "INDEX_CHECK_INTERVAL_SECONDS": "1",
            "LOG_LEVEL": "WARNING",
        }


def empty(uri: str) -> None:
    """Drops the collections of other tests, and the mark that they belong to another PostgreSQL."""
    with closing(MilvusClient(uri, timeout=20, dedicated=True)) as client:
        for name in client.list_collections():
            client.drop_collection(name)


async def filled(http: httpx.AsyncClient) -> list[BotClient]:
    bots = [await register(http) for _ in range(BOTS)]
    for bot in bots:
        documents = [bot.body(f"document {number} of it") for number in range(DOCUMENTS)]
        answer = await http.post("/data/insert/batch", json={"documents": documents})
        assert answer.json()["status"] == "success"
    return bots


def lose(uri: str, bots: Sequence[BotClient], *, half: bool = False) -> None:
    """Drops the collections, or half of their rows, as another client of Milvus could."""
    with closing(MilvusClient(uri, timeout=20, dedicated=True)) as client:
        for bot in bots:
            name = f"bot_{bot.bot_id.hex}"
            if not half:
                client.drop_collection(name)
                continue
            rows = client.query(
                name, filter="chunk_id > 0", output_fields=["chunk_id"], limit=1000, consistency_level="Strong"
            )
            client.delete(name, ids=sorted(row["chunk_id"] for row in rows)[: len(rows) // 2])


async def ask(bot: BotClient, **options: Any) -> httpx.Response:
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "document", "limit": 300, **options}
    return await bot.http.post("/search/query", json=body)


async def indexed_until_back(bot: BotClient, *, noticed: bool, documents: int = DOCUMENTS) -> list[int]:
    """Searches until all documents are found again. Returns the progress that was reported meanwhile.

    Before the server has ``noticed`` the loss, fewer documents may be found; never afterwards.
    """
    indexed: list[int] = []
    async with asyncio.timeout(BACK_SECONDS):
        while True:
            answer = await ask(bot)
            if answer.status_code == 503:
                problem = answer.json()
                assert problem["code"] == "index_rebuilding", answer.text
                assert answer.headers["Retry-After"]
                assert problem["progress"]["chunks_total"] >= documents
                indexed.append(problem["progress"]["chunks_indexed"])
                partial = (await ask(bot, allow_partial=True)).json()
                if "complete" in partial:  # Otherwise the rebuild has just ended.
                    assert partial["complete"] or len(partial["results"]) <= documents
                noticed = True
            else:
                assert answer.status_code == 200, answer.text
                found = len(answer.json()["results"])
                if found == documents and noticed:
                    return indexed
                assert not noticed, f"{found} of {documents}"
            await asyncio.sleep(0.05)


async def finds_all(bot: BotClient) -> bool:
    answer = await ask(bot)
    return answer.status_code == 200 and len(answer.json()["results"]) == DOCUMENTS


async def test_all_collections_lost_under_a_running_server_come_back(milvus: str) -> None:
    async with stores(milvus) as environment, served(environment) as (http, _):
        bots = await filled(http)
        await asyncio.to_thread(empty, milvus)
        for indexed in await asyncio.gather(*(indexed_until_back(bot, noticed=True) for bot in bots)):
            assert indexed
        assert (await http.get("/health/ready")).status_code == 200
        await bots[0].insert("another")
        assert len((await ask(bots[0])).json()["results"]) == DOCUMENTS + 1


async def test_all_collections_lost_under_a_stopped_server_come_back(milvus: str) -> None:
    async with stores(milvus) as environment:
        async with served(environment) as (http, _):
            bots = await filled(http)
        await asyncio.to_thread(empty, milvus)
        async with served(environment) as (http, _):
            await asyncio.gather(*(indexed_until_back(BotClient(http, bot.bot_id), noticed=True) for bot in bots))


async def test_one_lost_collection_of_three_comes_back_and_the_others_stay_served(milvus: str) -> None:
    """A write during the rebuild succeeds and hides nothing. Two processes serve the other bots."""
    async with AsyncExitStack() as stack:
        environment = await stack.enter_async_context(stores(milvus))
        http, _ = await stack.enter_async_context(served(environment))
        other, _ = await stack.enter_async_context(served(environment))
        bots = await filled(http)
        lost, *kept = [BotClient(other, bot.bot_id) for bot in bots]
        await asyncio.to_thread(lose, milvus, [lost])
        writing = asyncio.create_task(bots[0].insert("written meanwhile"))
        over = asyncio.Event()

        async def stays_complete(bot: BotClient) -> None:
            while not over.is_set():
                assert await finds_all(bot)
                await asyncio.sleep(0.05)

        watching = [asyncio.create_task(stays_complete(bot)) for bot in kept]
        await writing

        async def back() -> bool:
            answer = await ask(lost)
            assert answer.status_code == 503 or len(answer.json()["results"]) == DOCUMENTS + 1, answer.text
            return answer.status_code == 200

        await until(back, seconds=BACK_SECONDS)
        over.set()
        await asyncio.gather(*watching)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
async def test_half_of_the_rows_of_a_collection_come_back(milvus: str, stopped: bool) -> None:
    async with stores(milvus) as environment:
        async with served(environment) as (http, _):
            bots = await filled(http)
            if not stopped:
                await asyncio.to_thread(lose, milvus, bots[:1], half=True)
                assert await indexed_until_back(bots[0], noticed=False)
                assert all([await finds_all(bot) for bot in bots])
                return
        await asyncio.to_thread(lose, milvus, bots[:1], half=True)
        async with served(environment) as (http, _):
            assert await indexed_until_back(BotClient(http, bots[0].bot_id), noticed=False)
            assert all([await finds_all(BotClient(http, bot.bot_id)) for bot in bots])


class Halting:
    """A provider that answers ``left`` more requests for documents, and then none until ``go_on`` is set."""

    def __init__(self) -> None:
        self.left = sys.maxsize
        self.halted = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, body: Body) -> Reply:
        if len(body["input"]) > 1:
            self.left -= 1
            if self.left < 0:
                self.halted.set()
                self.go_on.wait(30)
        return good(body)


@pytest.fixture
def provider() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    server.always = Halting()
    yield server
    server.always.go_on.set()
    server.close()


@pytest.mark.parametrize("half", [False, True], ids=["collection", "rows"])
async def test_another_server_continues_a_killed_rebuild(milvus: str, provider: OpenAIServer, half: bool) -> None:
    """The other server does not repeat what was done, and neither server answers with fewer results."""
    parts, part = 4, 64
    halting = provider.always
    assert isinstance(halting, Halting)
    async with stores(milvus) as environment:
        environment |= {
            "EMBEDDING_MODEL": "openai",
            "OPENAI_BASE_URL": provider.url,
            "OPENAI_API_KEY": "key",
            "OPENAI_MODEL": "some-model",
            "EMBEDDING_BATCH_SIZE": str(part),
            "EMBEDDING_CACHE_MB": "0",
        }
        async with served(environment) as (http, process):
            bot = await register(http)
            for number in range(parts):
                documents = [bot.body(f"document {number} {index} of it") for index in range(part)]
                answer = await http.post("/data/insert/batch", json={"documents": documents})
                assert answer.json()["status"] == "success"
            assert len((await ask(bot)).json()["results"]) == parts * part
            halting.left = 1
            await asyncio.to_thread(lose, milvus, [bot], half=half)

            async def in_the_middle() -> bool:
                answer = await ask(bot)
                if answer.status_code == 200:
                    assert half
                    return False
                return halting.halted.is_set() and answer.json()["progress"]["chunks_indexed"] > 0

            await until(in_the_middle, seconds=60)
            process.kill()
            halting.left = sys.maxsize
            halting.go_on.set()
        provider.forget()
        async with served(environment) as (http, _):
            assert await indexed_until_back(BotClient(http, bot.bot_id), noticed=True, documents=parts * part)
        sent = [text for text in provider.texts if text.endswith("of it")]
        assert len(sent) == len(set(sent))
        lost = parts * part // 2 if half else parts * part
        assert len(sent) <= lost - part, "the work of the first server is kept"


async def test_repair_in_a_terminal_shows_the_progress_of_a_rebuild(milvus: str) -> None:
    async with stores(milvus) as environment:
        environment |= {"INDEX_CHECK_INTERVAL_SECONDS": "0"}
        async with served(environment) as (http, _):
            bots = await filled(http)
            await asyncio.to_thread(lose, milvus, bots[:1])
            assert (await ask(bots[0])).status_code == 503
            code, shown = await in_a_terminal(environment, "repair")
            assert code == 0, shown
            assert re.search(rf"rebuild {bots[0].bot_id}: 100%\S+ {DOCUMENTS}/{DOCUMENTS} \[", shown), repr(shown)
            assert f"repaired index_rebuilding bot={bots[0].bot_id}" in shown
            assert "1 repaired" in shown
            assert "stores agree" in shown
            for bot in bots:
                assert await finds_all(bot)


async def in_a_terminal(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """The exit code of ``python -m app.cli``, and what a terminal of 120 columns showed."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", *arguments),
        cwd=ROOT,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)

    def read() -> bytes:
        shown = b""
        with suppress(OSError):  # EIO, when the other end is closed.
            while more := os.read(ours, 4096):
                shown += more
        return shown

    try:
        shown = await asyncio.to_thread(read)
        return await process.wait(), shown.decode()
    finally:
        os.close(ours)
