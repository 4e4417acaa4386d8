"""Fixtures that open the provider openai on an ``OpenAIServer``. Import them by name."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from app.config import Settings
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.embedding.providers import provider_requests
from app.core.embedding.providers.factory import DEFAULT_TUNING, Tuning, open_embedder
from tests.embedding.openai_server import OpenAIServer

Open = Callable[..., Awaitable[CachingEmbedder]]


@pytest.fixture
async def opened(server: OpenAIServer) -> AsyncIterator[Open]:
    """Opens the embedder on the server, as the settings say; forgets what opening asked."""
    async with AsyncExitStack() as stack:

        async def open_it(tuning: Tuning = DEFAULT_TUNING, **given: object) -> CachingEmbedder:
            embedder = await open_embedder(settings(server, **given), tuning)
            stack.push_async_callback(embedder.close)
            server.forget()
            return embedder

        yield open_it


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_requests, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(provider_requests, "LONGEST_PAUSE", 0.02)


def settings(server: OpenAIServer, **given: object) -> Settings:
    chosen = {
        "embedding_model": "openai",
        "openai_base_url": server.url,
        "openai_api_key": "sk-test",
        "openai_model": "some-model",
        "embedding_cache_mb": 0,
        **given,
    }
    return Settings(_env_file=None, **chosen)  # type: ignore[arg-type]
