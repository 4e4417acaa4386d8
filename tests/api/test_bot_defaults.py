"""The search options of a bot, through HTTP, with a real PostgreSQL and the in-memory index."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.config import Settings
from app.core.analyzers.analyzers import NEWEST
from app.core.connect import Stores
from app.core.embedding.port import Embedder, Vectors
from app.core.search.confidence import SHIPPED
from app.core.services import build_services
from app.core.stores.postgres.database import Database
from app.schemas.operation_rows import Calibration
from app.utils.errors import EmbedderUnavailable
from tests.conftest import BotClient, in_process, register
from tests.doubles.memory_index import MemoryIndex

TEXTS = ("남산에는 케이블카가 있다.", "한강에서 자전거를 탄다.", "경복궁은 화요일에 문을 닫는다.")


async def answer(bot: BotClient, text: str = "한강 자전거", **options: object) -> dict[str, Any]:
    body = {"chat_bot_id": str(bot.bot_id), "query_text": text, **options}
    found: dict[str, Any] = (await bot.http.post("/search/query", json=body)).json()
    return found


async def patch(bot: BotClient, status: int = 200, **fields: object) -> dict[str, Any]:
    changed = await bot.http.patch(f"/collection/{bot.bot_id}", json=fields)
    assert changed.status_code == status, changed.text
    body: dict[str, Any] = changed.json()
    return body


async def shown(bot: BotClient) -> dict[str, Any]:
    """The defaults as GET shows them."""
    found = (await bot.http.get(f"/collection/{bot.bot_id}")).json()
    (listed,) = [
        one for one in (await bot.http.get("/collection/list")).json()["bots"] if one["chat_bot_id"] == str(bot.bot_id)
    ]
    names = ("mode", "dense_weight", "min_confidence")
    assert {name: listed[name] for name in names} == {name: found[name] for name in names}
    return {name: found[name] for name in names if name != "min_confidence" or found[name] is not None}


def scores(found: dict[str, Any]) -> list[tuple[int, float]]:
    return [(one["chunk_id"], one["score"]) for one in found["results"]]


async def test_without_defaults(bot: BotClient) -> None:
    await bot.insert(*TEXTS)
    assert await shown(bot) == {"mode": None, "dense_weight": None}
    assert (await answer(bot))["mode"] == "hybrid"
    assert scores(await answer(bot)) == scores(await answer(bot, dense_weight=0.3))


async def test_defaults_from_the_creation(client: httpx.AsyncClient) -> None:
    bot = await register(client, mode="hybrid", dense_weight=0.75)
    await bot.insert(*TEXTS)
    assert await shown(bot) == {"mode": "hybrid", "dense_weight": 0.75}
    assert scores(await answer(bot)) == scores(await answer(bot, dense_weight=0.75))
    assert scores(await answer(bot)) != scores(await answer(bot, dense_weight=0.3))


async def test_titles_in_words_from_the_creation(client: httpx.AsyncClient) -> None:
    for wanted, found in ((None, True), (True, True), (False, False)):
        bot = await register(client, **({} if wanted is None else {"title_in_lexical": wanted}))
        assert (await client.get(f"/collection/{bot.bot_id}")).json()["title_in_lexical"] is found
        await bot.insert("버튼을 누른다", title="갤럭시")
        assert len(await bot.search("갤럭시", mode="lexical")) == found
    body = {"chat_bot_id": str(bot.bot_id), "bot_name": "bot", "collection_name": f"bot_{bot.bot_id.hex}"}
    for again, status in (({}, 200), ({"title_in_lexical": False}, 200), ({"title_in_lexical": True}, 409)):
        assert (await client.post("/collection/create", json=body | again)).status_code == status
    await patch(bot, 422, title_in_lexical=True)


@pytest.mark.parametrize("mode", ["dense", "lexical"])
async def test_a_search_uses_what_it_does_not_name(bot: BotClient, mode: str) -> None:
    await bot.insert(*TEXTS)
    assert (await patch(bot, mode=mode, dense_weight=0.6))["mode"] == mode
    assert await shown(bot) == {"mode": mode, "dense_weight": 0.6}
    assert (await answer(bot))["mode"] == mode
    assert scores(await answer(bot)) == scores(await answer(bot, mode=mode))
    named = await answer(bot, mode="hybrid")
    assert named["mode"] == "hybrid"
    assert scores(named) == scores(await answer(bot, mode="hybrid", dense_weight=0.6))
    # A weight asks for hybrid mode, as it does without defaults.
    weighted = await answer(bot, dense_weight=0.2)
    assert (weighted["mode"], scores(weighted)) == (
        "hybrid",
        scores(await answer(bot, mode="hybrid", dense_weight=0.2)),
    )
    batch = {"chat_bot_id": str(bot.bot_id), "query_texts": ["한강 자전거"]}
    assert (await bot.http.post("/search/batch", json=batch)).json()["mode"] == mode


async def test_a_change_counts_at_once(
    bot: BotClient, db: Database, index: MemoryIndex, embedder: Embedder, settings: Settings
) -> None:
    """Also in a process that has the bot's row cached, and for searches that find what they look for."""
    await bot.insert(*TEXTS)
    async with (
        build_services(settings, Stores(db, index, timedelta(0)), embedder) as services,
        in_process(services, settings) as elsewhere,
    ):
        other = BotClient(elsewhere, bot.bot_id)
        for mode, weight in (("dense", None), ("hybrid", 0.9), ("lexical", 0.1), ("hybrid", 0.2), (None, None)):
            for _ in range(3):  # The row is cached when it was read twice.
                await answer(other)
            await patch(bot, mode=mode, dense_weight=weight)
            wanted: dict[str, object] = {"mode": mode or "hybrid"}
            if wanted["mode"] == "hybrid":
                wanted["dense_weight"] = 0.3 if weight is None else weight
            assert scores(await answer(other)) == scores(await answer(bot, **wanted))


async def test_null_sets_a_default_back_and_what_is_omitted_stays(bot: BotClient) -> None:
    await patch(bot, mode="dense", dense_weight=1)
    await patch(bot, bot_name="새 이름")
    assert await shown(bot) == {"mode": "dense", "dense_weight": 1.0}
    await patch(bot, mode=None)
    assert await shown(bot) == {"mode": None, "dense_weight": 1.0}
    await patch(bot, dense_weight=None, mode="lexical")
    assert await shown(bot) == {"mode": "lexical", "dense_weight": None}


@pytest.mark.parametrize(
    ("wrong", "loc"),
    [
        ({"mode": "best"}, "body.mode"),
        ({"dense_weight": 1.1}, "body.dense_weight"),
        ({"dense_weight": "0.5"}, "body.dense_weight"),
        ({"min_confidence": -0.1}, "body.min_confidence"),
        ({"dense_weight": True}, "body.dense_weight"),
        ({"mode": "dense", "weight": 1}, "body.weight"),
        ({}, "body"),
    ],
)
async def test_wrong_defaults(bot: BotClient, wrong: dict[str, object], loc: str) -> None:
    before = await shown(bot)
    assert [place["loc"] for place in (await patch(bot, 422, **wrong))["errors"]] == [loc]
    assert await shown(bot) == before
    if wrong:
        body = {"chat_bot_id": str(uuid4()), "bot_name": "x", "collection_name": "x", **wrong}
        created = await bot.http.post("/collection/create", json=body)
        assert created.status_code == 422
        assert [place["loc"] for place in created.json()["errors"]] == [loc]


async def test_a_registration_sent_again(client: httpx.AsyncClient) -> None:
    """What it names has to be what the bot has; what it does not name is not compared."""
    bot = await register(client, mode="lexical")
    same = {"chat_bot_id": str(bot.bot_id), "bot_name": "bot", "collection_name": f"bot_{bot.bot_id.hex}"}

    async def again(**defaults: object) -> int:
        return (await client.post("/collection/create", json={**same, **defaults})).status_code

    assert [await again(mode="lexical"), await again(), await again(mode=None)] == [200, 200, 200]
    assert [await again(mode="dense"), await again(dense_weight=0.3)] == [409, 409]
    await patch(bot, mode="dense", dense_weight=0.7)
    assert [await again(), await again(mode="dense", dense_weight=0.7)] == [200, 200]
    assert [await again(mode="lexical"), await again(dense_weight=0.3)] == [409, 409]
    assert await shown(bot) == {"mode": "dense", "dense_weight": 0.7}


async def test_a_threshold_needs_a_similarity(bot: BotClient) -> None:
    await bot.insert(*TEXTS)
    await patch(bot, mode="lexical")
    refused = await answer(bot, score_threshold=0.1)
    assert (refused["status"], [place["loc"] for place in refused["errors"]]) == (422, ["body.score_threshold"])
    assert (await answer(bot, score_threshold=-1, mode="dense"))["status"] == "success"
    assert (await answer(bot, score_threshold=-1, dense_weight=0))["status"] == "success"


async def test_lexical_by_default_needs_no_embedder(bot: BotClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await bot.insert(*TEXTS)
    await patch(bot, mode="lexical")
    asked: list[object] = []

    async def away(self: object, texts: object) -> Vectors:
        asked.append(texts)
        raise EmbedderUnavailable("The embedder does not answer.")

    monkeypatch.setattr("tests.doubles.hash_embedder.HashEmbedder.embed_queries", away)
    for _ in range(4):
        assert [one["chunk_text"] for one in (await answer(bot, "케이블카"))["results"]] == [TEXTS[0]]
    asked.clear()  # As long as the row was not known, the text was embedded beside reading it.
    assert len((await answer(bot, "케이블카"))["results"]) == 1
    assert asked == []


class TestWithoutWords:
    @pytest.fixture
    def index(self) -> MemoryIndex:
        return MemoryIndex(bm25=False)

    async def test_a_mode_that_cannot_be_served(self, bot: BotClient) -> None:
        for mode in ("lexical", "hybrid"):
            problem = await patch(bot, 422, mode=mode)
            assert (problem["code"], problem["errors"][0]["loc"]) == ("unsupported_mode", "body.mode")
            body = {"chat_bot_id": str(uuid4()), "bot_name": "x", "collection_name": "x", "mode": mode}
            created = await bot.http.post("/collection/create", json=body)
            assert (created.status_code, created.json()["code"]) == (422, "unsupported_mode")
        assert (await bot.http.get("/collection/list")).json()["total"] == 1
        await patch(bot, mode="dense", dense_weight=0.5)
        await bot.insert(*TEXTS)
        assert (await answer(bot))["mode"] == "dense"
        assert (await answer(bot, mode="hybrid"))["code"] == "unsupported_mode"

    async def test_a_default_from_when_there_were_words(self, bot: BotClient, db: Database) -> None:
        await bot.insert(*TEXTS)
        await db.execute("UPDATE bot_registry SET default_mode = 'hybrid' WHERE bot_id = $1", bot.bot_id)
        assert (await answer(bot))["code"] == "unsupported_mode"
        assert (await answer(bot, mode="dense"))["status"] == "success"
        await patch(bot, mode=None)
        assert (await answer(bot))["mode"] == "dense"


class TestMinConfidence:
    """On a model with the calibration that the default model has."""

    @pytest.fixture(autouse=True)
    def calibrated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SHIPPED, ("hash", 64, NEWEST), Calibration((-9.0, 20.0, 0.0, 0.0, 0.0), (-9.0, 20.0, 0, 0)))

    async def test_a_search_is_cut_by_its_bots_default(self, client: httpx.AsyncClient) -> None:
        bot = await register(client, min_confidence=0.5)
        await bot.insert(*TEXTS)
        assert await shown(bot) == {"mode": None, "dense_weight": None, "min_confidence": 0.5}
        uncut = await answer(bot, min_confidence=0)
        assert len(uncut["results"]) == 3
        expected = [one["chunk_id"] for one in uncut["results"] if one["confidence"] >= 0.5]
        assert 0 < len(expected) < 3
        assert [one["chunk_id"] for one in (await answer(bot))["results"]] == expected
        await patch(bot, min_confidence=None)
        assert scores(await answer(bot)) == scores(uncut)
        await patch(bot, min_confidence=1, mode="dense")
        assert scores(await answer(bot)) == scores(await answer(bot, min_confidence=1, mode="dense"))
        assert (await answer(bot, "아무 상관 없는 물음"))["results"] == []


async def test_min_confidence_needs_a_calibration(bot: BotClient) -> None:
    await bot.insert(*TEXTS)
    problem = await patch(bot, 422, min_confidence=0.5)
    assert (problem["code"], problem["errors"][0]["loc"]) == ("not_calibrated", "body.min_confidence")
    assert await shown(bot) == {"mode": None, "dense_weight": None}
    await patch(bot, min_confidence=None)
    other = await register(bot.http, min_confidence=0.5)
    await other.insert(*TEXTS)
    assert (await answer(other))["code"] == "not_calibrated"
    assert (await bot.http.patch(f"/collection/{uuid4()}", json={"min_confidence": 0.5})).status_code == 404
