"""From Upstage's first generation to its second, on stubs of both, under searches and writes: no search fails."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta

import httpx
import pytest

from app.config import Settings
from app.core.commands import model_migrator_over
from app.core.connect import Stores
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.providers import provider_requests
from app.core.embedding.providers.factory import open_embedder
from app.core.embedding.providers.model_settings import settings_for
from app.core.services import Services, build_services
from app.core.stores.postgres.database import Database
from tests.conftest import BotClient, in_process, register
from tests.doubles.memory_index import MemoryIndex
from tests.embedding.openai_server import OpenAIServer
from tests.embedding.upstage_stub import DIMENSIONS, FIRST, SECOND, Upstage

DOCUMENTS = 250
TEXTS = [f"paragraph {number} of the handbook" for number in range(DOCUMENTS)]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(provider_requests, "FIRST_PAUSE", 0.01)
    server = OpenAIServer()
    server.always = Upstage()
    yield server
    server.close()


def chosen(provider: OpenAIServer, **given: object) -> Settings:
    base = {"openai_base_url": provider.url, "openai_api_key": "up_x", "embedding_cache_mb": 0, "auth_disabled": True}
    return Settings(_env_file=None, saga_lease_seconds=5, **base, **given)  # type: ignore[arg-type]


@pytest.fixture
async def before(provider: OpenAIServer) -> AsyncIterator[CachingEmbedder]:
    """As it was set up before there was a preset: the passages' model for everything."""
    embedder = await open_embedder(chosen(provider, embedding_model="openai", openai_model=f"{FIRST}-passage"))
    yield embedder
    await embedder.close()


async def test_no_search_fails_while_a_bot_moves(
    db: Database, index: MemoryIndex, provider: OpenAIServer, before: CachingEmbedder
) -> None:
    stores = Stores(db, index, timedelta(0))
    settings = chosen(provider, embedding_model="upstage", embedding_previous_model=f"upstage:{FIRST}-passage")
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(build_services(settings, stores, before))
        bot = await register(await stack.enter_async_context(in_process(old, settings)))
        await _fill(bot)
        current = await open_embedder(settings)
        stack.push_async_callback(current.close)
        previous = await open_embedder(settings_for(settings, f"upstage:{FIRST}-passage"))
        stack.push_async_callback(previous.close)
        # The name that the bot has, so that it is served before it has moved.
        assert (previous.model, previous.dimension) == (before.model, before.dimension)
        services = await stack.enter_async_context(build_services(settings, stores, current, previous=previous))
        client = await stack.enter_async_context(in_process(services, settings))
        upstage = provider.always
        assert isinstance(upstage, Upstage)
        upstage.asked.clear()
        load = Load(BotClient(client, bot.bot_id))
        async with load, model_migrator_over(settings, stores, current) as migrator:
            await load.searched(20)
            so_far = load.searches
            moved = await migrator.run(bot.bot_id)
            meanwhile = load.searches - so_far
            await load.searched(20)
        assert load.failed == []
        assert {f"{FIRST}-query", f"{SECOND}-query"} <= {model for model, _ in upstage.asked}
        assert meanwhile > 0
        assert moved is not None
        assert moved.copied >= DOCUMENTS
        (row,) = await db.fetch("SELECT embedding_model, dimension FROM bot_registry")
        assert tuple(row) == (f"openai:{SECOND}-passage", DIMENSIONS[SECOND])
        # Questions were asked of the queries' models alone, documents of the passages'.
        assert {model for model, text in upstage.asked if text in TEXTS} >= {f"{SECOND}-passage", f"{SECOND}-query"}
        assert {model for model, text in upstage.asked if text.startswith("added")} <= {
            f"{FIRST}-passage",
            f"{SECOND}-passage",
        }
        assert await _findings(services) == []


async def _fill(bot: BotClient) -> None:
    for start in range(0, DOCUMENTS, 50):
        bodies = [bot.body(text) for text in TEXTS[start : start + 50]]
        answer = await bot.http.post("/data/insert/batch", json={"documents": bodies})
        assert answer.json()["success_count"] == 50


async def _findings(services: Services) -> list[object]:
    (bot,) = await services.verifier.bots()
    return [finding async for finding in services.verifier.check_bot(bot)]


class Load:
    """Three that search and one that writes, until it is left. What is not a 200 or 201 with the right text is kept."""

    def __init__(self, bot: BotClient) -> None:
        self.bot = bot
        self.failed: list[str] = []
        self.searches = 0

    async def __aenter__(self) -> "Load":
        runs = [*(self._search(number) for number in range(3)), self._write()]
        self._tasks = [asyncio.create_task(run) for run in runs]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                self.failed.append(repr(outcome))

    async def searched(self, more: int) -> None:
        """Returns after so many searches from now."""
        wanted = self.searches + more
        async with asyncio.timeout(60):
            while self.searches < wanted and not self.failed:
                await asyncio.sleep(0.01)

    async def _search(self, seed: int) -> None:
        for number in itertools.count(seed * 71, 7):
            text = TEXTS[number % DOCUMENTS]
            answer = await self._post("/search/query", {"query_text": text, "mode": "dense", "limit": 1})
            found = [one["chunk_text"] for one in answer.json().get("results", [])]
            if answer.status_code != 200 or found != [text]:
                self.failed.append(f"{answer.status_code} {found} for {text!r}: {answer.text[:200]}")
            self.searches += 1

    async def _write(self) -> None:
        for number in itertools.count():
            answer = await self.bot.http.post("/data/insert", json=self.bot.body(f"added {number}"))
            if answer.status_code != 201:
                self.failed.append(f"{answer.status_code}: {answer.text[:200]}")

    async def _post(self, path: str, body: dict[str, object]) -> httpx.Response:
        return await self.bot.http.post(path, json={"chat_bot_id": str(self.bot.bot_id), **body})
