"""Starting the provider openai: what is found out, and what keeps it from starting."""

from collections.abc import Callable

import numpy as np
import pytest

from app.core.embedding.providers.factory import open_embedder
from app.utils.errors import StartupError
from tests.embedding.openai_embedders import Open, opened, quick, settings
from tests.embedding.openai_server import NATIVE, Body, OpenAIServer, Reply, changed, expected, failing, good

__all__ = ["opened", "quick"]

TEXTS = [f"text number {number}" for number in range(10)]


@pytest.mark.parametrize(
    ("given", "behaviour", "message"),
    [
        ({}, failing(401), "OPENAI_API_KEY"),
        ({}, failing(404), "OPENAI_MODEL"),
        ({}, changed(lambda data: []), "OPENAI_MODEL"),
        ({"openai_api_key": None, "openai_base_url": None}, good, "OPENAI_API_KEY"),
        ({"embedding_long_text": "truncate"}, good, "EMBEDDING_LONG_TEXT"),
        ({"embedding_dimension": 4}, lambda body: good({**body, "dimensions": NATIVE}), "EMBEDDING_DIMENSION=4"),
        ({"embedding_dimension": 9000, "openai_model": "text-embedding-3-large"}, good, "EMBEDDING_DIMENSION=9000"),
        ({"startup_timeout": 0.01}, failing(503), "OPENAI_BASE_URL"),
    ],
)
async def test_what_keeps_it_from_starting_is_one_line(
    server: OpenAIServer, given: dict[str, object], behaviour: Callable[[Body], Reply], message: str
) -> None:
    server.always = behaviour
    with pytest.raises(StartupError) as caught:
        await open_embedder(settings(server, **given))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "sk-test" not in str(caught.value)


async def test_a_shorter_dimension_is_asked_for(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(embedding_dimension=4)
    assert embedder.dimension == 4
    np.testing.assert_allclose(await embedder.embed_documents(TEXTS), expected(TEXTS, 4), atol=1e-6)
    assert server.requests[0]["dimensions"] == 4


async def test_the_model_s_own_dimension_is_not_asked_for(opened: Open, server: OpenAIServer) -> None:
    """Servers refuse the parameter for models that cannot be shortened."""
    embedder = await opened(embedding_dimension=NATIVE)
    await embedder.embed_queries(["x"])
    assert "dimensions" not in server.requests[0]


async def test_a_known_model_may_be_away_at_start(server: OpenAIServer, quick: None) -> None:
    server.always = failing(503)
    embedder = await open_embedder(settings(server, openai_model="text-embedding-3-small"))
    assert embedder.dimension == 1536
    await embedder.close()


async def test_azure_s_kind_of_url(opened: Open, server: OpenAIServer) -> None:
    embedder = await opened(openai_base_url=server.url + "/deployments/x?api-version=2024-10-21")
    await embedder.embed_queries(["x"])
    assert server.paths == ["/v1/deployments/x/embeddings?api-version=2024-10-21"]
    assert server.headers[0]["api-key"] == "sk-test"
