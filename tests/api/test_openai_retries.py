"""OpenAI's client sends a request once if its conflict stays, and again if it is told to wait."""

import httpx
import openai
import pytest

from app.api.error_forms import ErrorContent, form_of
from app.core.stores.postgres.database import Database
from tests.conftest import BotClient


@pytest.fixture
def requests(client: httpx.AsyncClient) -> list[httpx.Request]:
    """Those that the client sends from now on."""
    sent: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        sent.append(request)

    client.event_hooks = {"request": [note]}
    return sent


async def test_a_bot_of_another_model_is_searched_once(
    client: httpx.AsyncClient, bot: BotClient, db: Database, requests: list[httpx.Request]
) -> None:
    async with db.connection() as conn:
        await conn.execute("UPDATE bot_registry SET embedding_model = 'another' WHERE bot_id = $1", bot.bot_id)
    official = openai.AsyncOpenAI(base_url="http://server/v1", api_key="none", http_client=client)
    with pytest.raises(openai.ConflictError, match="another"):
        await official.vector_stores.search(str(bot.bot_id), query="광화문")
    assert len(requests) == 1


@pytest.mark.parametrize(("headers", "added"), [({}, {"x-should-retry": "false"}), ({"Retry-After": "1"}, {})])
def test_a_conflict_with_retry_after_is_left_to_the_client(headers: dict[str, str], added: dict[str, str]) -> None:
    form = form_of("/v1/vector_stores")
    assert form is not None
    assert form(ErrorContent(409, "conflict", "", (), headers)).headers == added
