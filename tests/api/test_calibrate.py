"""The command that calibrates ``confidence``, over PostgreSQL and the in-memory index."""

from typing import Any

import pytest

from app.core.operations.questions import Question
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.utils.errors import InvalidInput
from tests.conftest import BotClient

PLACES, THINGS = ("경복궁", "남산", "한강", "광화문", "북촌", "인사동", "홍대", "잠실"), 8


@pytest.fixture
async def filled(bot: BotClient) -> BotClient:
    """Chunks that share words, each with some of its own."""
    for place in PLACES:
        await bot.insert(
            *(f"{place} 안내 {number}번: {place}{number} 입장료는 {number}00원이다" for number in range(THINGS))
        )
    return bot


def questions() -> list[Question]:
    known = [
        Question(f"{place}{number} 입장료", passage=f"{place}{number} 입장료")
        for place in PLACES
        for number in range(THINGS)
    ]
    return [*known, *(Question(f"달나라{number} 여행 경비는 얼마") for number in range(20))]


async def test_a_calibration_is_fitted_and_used(filled: BotClient, services: Services, db: Database) -> None:
    """Also where the bot has a mode and a min_confidence of its own, which cannot be served yet."""
    before: list[dict[str, Any]] = await filled.search("남산3 입장료", limit=2)
    assert before[0]["confidence"] is None
    own = "UPDATE bot_registry SET default_mode = 'lexical', default_min_confidence = 0.5 WHERE bot_id = $1"
    await db.execute(own, filled.bot_id)
    body = {"chat_bot_id": str(filled.bot_id), "query_text": "남산3"}
    assert (await filled.http.post("/search/query", json=body)).json()["code"] == "not_calibrated"
    assert len(await filled.search("남산3 입장료", limit=2, min_confidence=0)) == 2
    counted: list[int] = []
    done = await services.calibrator.run(filled.bot_id, questions(), counted.append)
    assert (sum(counted), done.questions, done.there, done.bots) == (84, 84, 64, 1)
    assert done.right >= 50
    assert done.auc > 0.9
    assert done.words_auc > 0.9
    for mode in ("hybrid", "lexical", "dense"):
        found: list[dict[str, Any]] = await filled.search("남산3 입장료", mode=mode)
        assert found[0]["confidence"] > 0.5
    for result in await filled.search("달나라 여행", min_confidence=0):
        assert result["confidence"] < 0.3  # type: ignore[operator]
    assert await filled.search("달나라 여행") == []


async def test_too_few_examples_change_nothing(filled: BotClient, services: Services) -> None:
    for few in (questions()[:49], questions()[-20:], []):
        with pytest.raises(InvalidInput, match="at least 50"):
            await services.calibrator.run(filled.bot_id, few)
    (result, *_) = await filled.search("남산3 입장료")
    assert result["confidence"] is None
