"""The words of a bot are written again by the newest analyzer, under load; nothing is embedded."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from uuid import uuid4

import pytest

from app.config import Settings
from app.core.analyzers.analyzers import NEWEST
from app.core.bots.bots import NewBot
from app.core.commands import model_migrator_over
from app.core.connect import Stores
from app.core.search.query import Query
from app.core.services import build_services
from app.core.stores.postgres.database import Database
from app.schemas.rows import NewChunk, NewDocument
from app.utils.errors import IndexRebuilding, MigrationInProgress, ModelMismatch
from app.utils.stopwatch import Stopwatch
from tests.integration.conftest import Crash, FaultyIndex, assert_at_rest
from tests.integration.moving_bot import New, Old, Place, Traffic, document

QUESTIONS = ("제3조", "물", "5만원", "한달", "abc-1234", "규정", "이야기 7")
TEXTS = [
    "제3조 목적", "제15조 제2항과 3년", "물은 100도에서 끓는다", "불은 뜨겁다", "회비 5만 원", "회비 7만 원",
    "기간은 한 달", "품번 ABC1234", "품번 ABD1234", *(f"이야기 {number}" for number in range(12)),
]  # fmt: skip


class EarlierPlace(Place):
    """The bot's words are of the first analyzer, without titles."""

    async def make_earlier(self) -> None:
        await self.stores.db.execute(
            "UPDATE bot_registry SET analyzer_version = 1, title_in_lexical = false WHERE bot_id = $1", self.bot_id
        )

    async def reindex(self, **options: bool | None):  # type: ignore[no-untyped-def]
        async with model_migrator_over(self.settings, self.stores, None) as migrator:
            return await migrator.reindex(self.bot_id, **options)

    async def lexical(self, text: str, bot_id=None) -> list[tuple[str, float]]:  # type: ignore[no-untyped-def]
        query = Query(bot_id or self.bot_id, None, [text], 20, mode="lexical")
        (results,) = (await self.services.search.query(query, Stopwatch())).results
        return [(result.chunk.text, round(result.score, 5)) for result in results]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"saga_lease_seconds": 2.5})


@pytest.fixture
async def place(settings: Settings, db: Database, index: FaultyIndex) -> AsyncIterator[EarlierPlace]:
    async with opened(settings, Stores(db, index, timedelta(0))) as made:
        yield made


@asynccontextmanager
async def opened(settings: Settings, stores: Stores) -> AsyncIterator[EarlierPlace]:
    async with build_services(settings, stores, Old()) as services:
        place = EarlierPlace(settings, stores, services)
        await services.bots.create(NewBot(place.bot_id, "b", place.name, "chatty"))
        await place.make_earlier()
        yield place


async def fill(place: Place, texts: Sequence[str], bot_id=None) -> None:  # type: ignore[no-untyped-def]
    for number, text in enumerate(texts):
        written = NewDocument(f"규정 {number}", [NewChunk(0, text)])
        (outcome,) = await place.services.ingest.insert(bot_id or place.bot_id, None, written, Stopwatch())
        assert outcome.error is None


async def assert_like_a_fresh_bot(place: EarlierPlace) -> None:
    """Equal scores too: the collection holds the same tokens and nothing more."""
    fresh = uuid4()
    await place.services.bots.create(NewBot(fresh, "f", f"c_{fresh.hex}", "chatty"))
    await fill(place, TEXTS, fresh)
    for question in QUESTIONS:
        expected = await place.lexical(question, fresh)
        assert await place.lexical(question) == expected
        assert expected


async def test_ranks_like_a_fresh_bot_and_embeds_nothing(place: EarlierPlace) -> None:
    await fill(place, TEXTS)
    assert await place.lexical("규정") == []
    done = await place.reindex()
    assert (done.copied, done.embedded, done.resumed) == (len(TEXTS), 0, False)
    bot = await place.services.bots.get(place.bot_id, None)
    assert (bot.analyzer_version, bot.title_in_lexical) == (NEWEST, True)
    await assert_like_a_fresh_bot(place)
    await assert_at_rest(place.stores.db, place.stores.index)


@pytest.mark.parametrize("titles", [True, False])
async def test_titles_are_chosen(place: EarlierPlace, titles: bool) -> None:
    await fill(place, TEXTS[:3])
    await place.reindex(titles=titles)
    assert bool(await place.lexical("규정")) is titles
    await place.reindex()  # As before; and words of this version are written again.
    assert bool(await place.lexical("규정")) is titles


async def test_no_search_fails_under_load(place: EarlierPlace) -> None:
    traffic = Traffic(place, 1)
    await traffic.fill(60)
    async with traffic:
        done = await place.reindex()
    assert done.copied >= 60
    assert done.embedded == 0
    await traffic.check()
    assert (await place.services.bots.get(place.bot_id, None)).milvus_collection != place.name


@pytest.mark.parametrize(
    "point",
    ["reembed.after_collection", "reembed.after_upsert", "reembed.before_switch", "reembed.after_switch"],
)
async def test_killed_and_resumed(place: EarlierPlace, at, point: str) -> None:  # type: ignore[no-untyped-def]
    await fill(place, TEXTS)
    at(point, Crash())
    with suppress(Crash):
        await place.reindex()
    assert await place.reindex()
    await assert_like_a_fresh_bot(place)


async def test_a_write_that_the_switch_overtakes_has_the_new_words(place: EarlierPlace, at) -> None:  # type: ignore[no-untyped-def]
    await fill(place, TEXTS[:-1])

    async def overtake() -> None:
        assert await place.reindex()

    at("write.after_upsert", overtake)
    written = NewDocument(f"규정 {len(TEXTS) - 1}", [NewChunk(0, TEXTS[-1])])
    (outcome,) = await place.services.ingest.insert(place.bot_id, None, written, Stopwatch())
    assert outcome.error is None
    await assert_like_a_fresh_bot(place)


@pytest.mark.parametrize("point", ["reembed.after_begin", "reembed.before_switch"])
async def test_a_title_that_is_patched_while_titles_are_added(place: EarlierPlace, at, point: str) -> None:  # type: ignore[no-untyped-def]
    await fill(place, TEXTS[:2])
    (row,) = await place.stores.db.fetch("SELECT doc_id FROM document_chunks WHERE text = $1", TEXTS[0])

    async def patch() -> None:
        await place.services.documents.patch(place.bot_id, None, row["doc_id"], {"title": "새것"}, {})

    at(point, patch)
    await place.reindex()
    assert [text for text, _ in await place.lexical("새것")] == [TEXTS[0]]
    assert [text for text, _ in await place.lexical("규정")] == [TEXTS[1]]


async def test_a_vector_that_is_missing_is_embedded(place: EarlierPlace) -> None:
    await fill(place, TEXTS[:3])
    (row,) = await place.stores.db.fetch("SELECT chunk_id FROM document_chunks WHERE text = $1", TEXTS[0])
    await place.stores.index.delete(place.name, [row["chunk_id"]])
    with pytest.raises(ModelMismatch):
        await place.reindex()

    async def embedder_of(_: object) -> Old:
        return Old()

    async with model_migrator_over(place.settings, place.stores, None, embedder_of) as migrator:
        done = await migrator.reindex(place.bot_id)
    assert done
    assert done.embedded == 1
    assert await place.texts(TEXTS[0]) == [TEXTS[0]]


async def test_one_migration_at_a_time(place: EarlierPlace, at) -> None:  # type: ignore[no-untyped-def]
    await fill(place, TEXTS[:3])
    at("reembed.after_collection", Crash())
    with suppress(Crash):
        await place.reindex()
    with pytest.raises(MigrationInProgress):
        await place.move(New())
    with pytest.raises(MigrationInProgress):
        await place.reindex(titles=False)
    async with place.migrator() as migrator:
        assert await migrator.abort(place.bot_id)
    bot = await place.services.bots.get(place.bot_id, None)
    assert (bot.analyzer_version, bot.milvus_collection) == (1, place.name)
    assert await place.reindex()


async def test_a_rebuild_and_a_replacement_keep_the_version(place: EarlierPlace) -> None:
    """The index of the tests refuses words of two versions in one collection."""
    doc_id = await place.insert("물은 끓는다")
    await place.services.ingest.replace(place.bot_id, None, doc_id, document("물은 언다"), Stopwatch())
    await place.stores.index.drop(place.name)

    with pytest.raises(IndexRebuilding):
        await place.lexical("물은")
    await place.services.repairer.rebuild(place.bot_id, lambda _: None)
    assert [text for text, _ in await place.lexical("물은")] == ["물은 언다"]
    assert await place.lexical("물") == []  # The first analyzer does not find it.
