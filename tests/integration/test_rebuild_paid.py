"""Vectors that Milvus lost and a paid provider would make again: up to REBUILD_MAX_CHUNKS by itself, else by repair."""

import logging
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from app.config import Settings
from app.core.embedding.providers.factory import open_embedder
from app.core.services import Services
from app.core.stores.postgres.database import Database
from tests.conftest import BotClient, until
from tests.embedding.openai_server import OpenAIServer
from tests.integration.conftest import FaultyIndex, assert_at_rest

MOST = 3


@pytest.fixture
def provider() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    yield server
    server.close()


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest, provider: OpenAIServer) -> Settings:
    """``request.param``: EMBEDDING_MODEL."""
    chosen = {
        "embedding_model": request.param,
        "openai_base_url": provider.url,
        "openai_api_key": "key",
        "openai_model": "some-model",
        "rebuild_max_chunks": MOST,
        "index_check_interval_seconds": 0.2,
        "recovery_interval_seconds": 0.05,
        "saga_lease_seconds": 10,
    }
    return Settings(_env_file=None, **chosen)  # type: ignore[arg-type]


@pytest.fixture
async def embedder(settings: Settings) -> AsyncIterator[object]:
    embedder = await open_embedder(settings.model_copy(update={"embedding_cache_mb": 0}))
    yield embedder
    await embedder.close()


async def ask(bot: BotClient, **options: object) -> httpx.Response:
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "text 0", "limit": 100, **options}
    return await bot.http.post("/search/query", json=body)


async def lose(bot: BotClient, index: FaultyIndex, provider: OpenAIServer, chunks: int) -> None:
    await bot.insert(*(f"text {number}" for number in range(chunks)))
    provider.forget()
    await index.drop(f"bot_{bot.bot_id.hex}")


@pytest.mark.parametrize("settings", ["openai", "voyage"], indirect=True)
async def test_more_than_the_bound_waits_for_repair(
    bot: BotClient,
    index: FaultyIndex,
    provider: OpenAIServer,
    services: Services,
    db: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "app")
    await lose(bot, index, provider, MOST + 1)
    refused = await ask(bot)
    assert (refused.status_code, refused.json()["code"]) == (503, "index_rebuilding")
    assert "REBUILD_MAX_CHUNKS" in refused.json()["detail"]
    assert "python -m app.cli repair" in refused.json()["detail"]
    assert refused.json()["progress"] == {"chunks_indexed": 0, "chunks_total": MOST + 1}

    async def said() -> bool:
        return any("is not rebuilt" in message and "app.cli repair" in message for message in caplog.messages)

    await until(said)
    partial = (await ask(bot, allow_partial=True)).json()
    assert (partial["results"], partial["complete"], partial["indexed"]) == ([], False, 0.0)
    # A write afterwards is found by who asks for what is there, and hides nothing.
    await bot.insert("text 0")
    assert [one["chunk_text"] for one in (await ask(bot, allow_partial=True)).json()["results"]] == ["text 0"]
    assert (await ask(bot)).status_code == 503
    sent = [text for text in provider.texts if text != "text 0"]
    assert sent == [], "the provider was sent what nobody asked for"
    assert await db.fetch("SELECT FROM index_rebuilds WHERE attempts = 0")

    kinds = [finding.kind async for finding in services.repairer.repair_bot(bot.bot_id)]
    assert kinds == ["index_rebuilding"]
    assert len((await ask(bot)).json()["results"]) == MOST + 2
    await assert_at_rest(db, index)


@pytest.mark.parametrize(
    ("settings", "chunks"), [("openai", MOST), ("vllm", 3 * MOST)], indirect=["settings"], ids=["few", "own-server"]
)
async def test_few_chunks_and_those_of_ones_own_server_are_sent_at_once(
    bot: BotClient, index: FaultyIndex, provider: OpenAIServer, chunks: int, db: Database
) -> None:
    await lose(bot, index, provider, chunks)
    assert (await ask(bot)).status_code == 503

    async def whole() -> bool:
        answer = await ask(bot)
        assert answer.status_code == 503 or len(answer.json()["results"]) == chunks, answer.text
        return answer.status_code == 200

    await until(whole)
    await assert_at_rest(db, index)
