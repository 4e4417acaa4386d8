"""lexical_coverage, confidence and min_confidence through HTTP, with a real PostgreSQL and the in-memory index."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.core.search import relevance
from app.core.search.confidence import SHIPPED
from app.core.search.relevance import Relevance
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.statistics import StatisticsStore
from app.schemas.operation_rows import Calibration
from app.schemas.rows import SearchChunk
from app.utils.errors import DatabaseFull
from tests.conftest import BotClient, register
from tests.doubles.hash_embedder import HashEmbedder
from tests.doubles.memory_index import MemoryIndex

PALACE = (
    "경복궁은 화요일에 문을 닫는다.",
    "남산에는 케이블카가 있다.",
    "한강에서 자전거를 탄다.",
    "Tokyo Tower is red.",
)
CALIBRATION = Calibration((-3.0, 6.0, -0.5, 0.5, 1.0), (-3.0, 6.0, -0.5, 0.5))


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch, embedder: HashEmbedder) -> None:
    """The embedder of the tests has no meaning, and so no calibration of its own."""
    monkeypatch.setitem(SHIPPED, (embedder.model, embedder.dimension, 1), CALIBRATION)
    monkeypatch.setitem(SHIPPED, (embedder.model, embedder.dimension, 2), CALIBRATION)


def confidences(results: list[dict[str, Any]]) -> list[float]:
    return [result["confidence"] for result in results]


async def not_calibrated(bot: BotClient, **options: object) -> dict[str, Any]:
    body = {"chat_bot_id": str(bot.bot_id), "query_text": "남산", "min_confidence": 0.1, **options}
    answer = await bot.http.post("/search/query", json=body)
    assert answer.status_code == 422, answer.text
    problem: dict[str, Any] = answer.json()
    return problem


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.usefixtures("calibrated")
async def test_each_result_says_what_it_is_worth(bot: BotClient, mode: str) -> None:
    await bot.insert(*PALACE)
    results: list[dict[str, Any]] = await bot.search("남산 케이블카", mode=mode)
    coverage = {result["chunk_text"]: result["lexical_coverage"] for result in results}
    assert coverage.pop(PALACE[1]) == 1
    assert set(coverage.values()) <= {0.0}
    best = next(result for result in results if result["lexical_coverage"] == 1)
    assert best["confidence"] > 0.9
    assert confidences(results) == sorted(confidences(results), reverse=True)
    assert all(0 <= one <= 1 for one in confidences(results))
    (half,) = await bot.search("남산의 휴일", mode="lexical")
    assert 0.2 < half["lexical_coverage"] < 0.5  # type: ignore[operator]
    assert half["confidence"] < best["confidence"] / 2
    everything: list[dict[str, Any]] = await bot.search("전혀 다른 물음", mode="dense")
    assert {result["lexical_coverage"] for result in everything} == {0.0}
    assert max(confidences(everything)) < 0.1


@pytest.mark.usefixtures("calibrated")
async def test_min_confidence_cuts(bot: BotClient) -> None:
    await bot.insert(*PALACE)
    everything: list[dict[str, Any]] = await bot.search("남산 케이블카")
    least = everything[0]["confidence"]
    for limit in (1, 4):
        found = await bot.search("남산 케이블카", min_confidence=least, limit=limit, context_chunks=1)
        assert [one["chunk_text"] for one in found] == [PALACE[1]]
    assert await bot.search("남산 케이블카", min_confidence=1) == []
    assert await bot.search("남산 케이블카", min_confidence=0) == everything
    body = {"chat_bot_id": str(bot.bot_id), "query_texts": ["전혀 다른 물음", "남산 케이블카"], "min_confidence": least}
    answers = (await bot.http.post("/search/batch", json=body)).json()["answers"]
    assert [len(answer["results"]) for answer in answers] == [0, 1]


async def test_a_model_without_calibration(bot: BotClient) -> None:
    assert confidences(await bot.search("남산")) == []
    for expected in ([], [PALACE[1]]):
        problem = await not_calibrated(bot)
        assert problem["code"] == "not_calibrated"
        assert problem["errors"][0]["loc"] == "body.min_confidence"
        assert f"app.cli calibrate {bot.bot_id} --questions" in problem["detail"]
        results: list[dict[str, Any]] = await bot.search("남산", limit=1, mode="lexical")
        assert [result["chunk_text"] for result in results] == expected
        assert confidences(results) == [None] * len(expected)
        await bot.insert(*PALACE)


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.5", True])
async def test_min_confidence_is_a_share(bot: BotClient, value: object) -> None:
    assert (await not_calibrated(bot, min_confidence=value))["code"] == "invalid_input"


async def test_a_stored_calibration_replaces_the_shipped_one(
    client: httpx.AsyncClient, bot: BotClient, db: Database, embedder: HashEmbedder
) -> None:
    """It counts from the next search on, in each process, for other bots of the model too."""
    other = await register(client)
    for one in (bot, other):
        await one.insert(*PALACE)
        for _ in range(3):  # The bot's row is cached.
            (result, *_) = await one.search("남산 케이블카")
            assert result["confidence"] is None
    store = StatisticsStore(db)
    versions = [CALIBRATION, Calibration((0.0,) * 5, (0.0,) * 4)]
    for calibration, expected in zip(versions, (0.9, 0.5), strict=True):
        for analyzer in (1, 2):
            await store.calibrate(embedder.model, embedder.dimension, analyzer, calibration)
        for one in (bot, other):
            (result, *_) = await one.search("남산 케이블카")
            assert result["confidence"] == pytest.approx(expected, abs=0.1)


class TestWithoutWords:
    @pytest.fixture
    def index(self) -> MemoryIndex:
        return MemoryIndex(bm25=False)

    @pytest.mark.usefixtures("calibrated")
    async def test_coverage_needs_no_lexical_field(self, bot: BotClient) -> None:
        await bot.insert(*PALACE)
        results: list[dict[str, Any]] = await bot.search("남산 케이블카")
        assert {one["chunk_text"] for one in results if one["lexical_coverage"] == 1} == {PALACE[1]}
        assert results[0]["confidence"] > 0.9


@pytest.mark.usefixtures("calibrated")
async def test_statistics_follow_a_bot_that_grows(
    bot: BotClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relevance, "CHECK_SECONDS", 0.0)
    store = StatisticsStore(db)
    first, second = Relevance(store), Relevance(store)

    async def counted(chunks: int) -> bool:
        found = await store.get(bot.bot_id)
        assert found is not None
        return found.counts is not None and found.counts.sampled == chunks

    await bot.insert("the palace is closed")
    (alone,) = await bot.search("the palace", mode="lexical")
    assert await counted(1)
    await bot.insert(*(f"the number {number}" for number in range(9)))
    for service in (first, second):
        service._to_check.add(bot.bot_id)
        await service.refresh()
    assert await counted(10)
    (result, *_) = await bot.search("the palace", mode="lexical")
    assert result["lexical_coverage"] == alone["lexical_coverage"] == 1
    (number, *_) = await bot.search("the missing number", mode="lexical")
    (palace, *_) = await bot.search("the missing palace", mode="lexical")
    assert number["lexical_coverage"] < palace["lexical_coverage"]  # type: ignore[operator]
    before = await store.get(bot.bot_id)
    await bot.insert("one more")
    first._to_check.add(bot.bot_id)
    await first.refresh()
    assert await store.get(bot.bot_id) == before
    monkeypatch.setattr(relevance, "MAX_AGE_SECONDS", 0.0)
    first._to_check.add(bot.bot_id)
    await first.refresh()
    assert await counted(11)


async def test_two_servers_that_see_a_fresh_bot_use_one_sample(
    bot: BotClient, services: Services, db: Database
) -> None:
    await bot.insert(*PALACE)
    store, text = StatisticsStore(db), "남산의 케이블카 휴일"
    row = await services.bots.usable(bot.bot_id, None)
    assert row.statistics_version is None
    servers = [Relevance(store), Relevance(store)]
    both = await asyncio.gather(*(server.matches(text, row, [chunk(PALACE[1])]) for server in servers))
    assert both[0] == both[1]
    now = await services.bots.usable(bot.bot_id, None)
    statistics = await store.get(bot.bot_id)
    assert statistics is not None
    assert statistics.version == now.statistics_version is not None
    later = [await server.matches(text, now, [chunk(PALACE[1])]) for server in servers]
    assert later == [both[0]] * 2


async def test_a_sample_that_cannot_be_stored_is_used(
    bot: BotClient, services: Services, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is full or read-only: searches go on, and do not draw a sample each."""
    await bot.insert(*PALACE)
    draws: list[UUID] = []

    class FullStore(StatisticsStore):
        async def sample(self, bot_id: UUID, limit: int, pages: int) -> Sequence[tuple[str, str]]:
            draws.append(bot_id)
            return await super().sample(bot_id, limit, pages)

        async def store(self, *_: object) -> bool:  # type: ignore[override]
            raise DatabaseFull("PostgreSQL has no space left on its disk")

    server, row = Relevance(FullStore(db)), await services.bots.usable(bot.bot_id, None)
    for _ in range(3):
        (match,) = await server.matches("남산 케이블카", row, [chunk(PALACE[1])])
        assert match.coverage == 1
    assert len(draws) == 1
    monkeypatch.setattr(FullStore, "store", StatisticsStore.store)
    monkeypatch.setattr(server._statistics, "get", lambda _key: None)  # As when it has expired.
    await server.matches("남산 케이블카", row, [chunk(PALACE[1])])
    found = await StatisticsStore(db).get(bot.bot_id)
    assert found is not None
    assert found.counts is not None


async def test_another_analyzer_needs_another_sample(bot: BotClient, services: Services, db: Database) -> None:
    await bot.insert(*PALACE, title="안내")
    await bot.search("남산")
    before = await StatisticsStore(db).get(bot.bot_id)
    assert before is not None
    assert before.counts is not None
    change = "UPDATE bot_registry SET title_in_lexical = NOT title_in_lexical WHERE bot_id = $1"
    await db.execute(change, bot.bot_id)
    now = await StatisticsStore(db).get(bot.bot_id)
    assert now is not None
    assert now.counts is None
    row = await services.bots.usable(bot.bot_id, None)
    (match,) = await Relevance(StatisticsStore(db)).matches("안내", row, [chunk("글")])
    assert match.coverage == float(row.title_in_lexical)
    now = await StatisticsStore(db).get(bot.bot_id)
    assert now is not None
    assert now.counts is not None
    assert now.counts != before.counts


def chunk(text: str) -> SearchChunk:
    now = datetime.now(UTC)
    return SearchChunk(1, 1, 0, text, None, "안내", None, None, None, [], {}, now, now, None)
