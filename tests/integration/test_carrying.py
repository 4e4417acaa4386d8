"""A replacement takes vectors along for texts that stay, and embeds the rest: also where a vector is unusable."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from app.core.embedding.port import PartialEmbeddingError, Vectors
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.schemas.rows import CHUNKS_PER_GENERATION
from app.utils.errors import CollectionMissing, EmbeddingInvalid, VectorIndexUnavailable
from app.utils.failpoints import install
from tests.conftest import BotClient, until
from tests.doubles.counting_embedder import CountingEmbedder
from tests.integration.conftest import FaultyIndex, assert_at_rest

TEXTS = ("one", "two", "three")


@pytest.fixture
def embedder() -> CountingEmbedder:
    return CountingEmbedder()


async def put(bot: BotClient, doc_id: int, *texts: str) -> dict[str, Any]:
    answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body(*texts))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def assert_right_vectors(services: Services, bot: BotClient, db: Database, index: FaultyIndex) -> None:
    await assert_at_rest(db, index)
    found = [finding async for finding in services.vector_check.check_bot(bot.bot_id)]
    assert found == []


async def test_only_new_texts_are_embedded(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, embedder: CountingEmbedder
) -> None:
    doc_id = await bot.insert(*TEXTS)
    embedder.embedded.clear()
    answer = await put(bot, doc_id, "one", "new", "three", "one")
    assert embedder.embedded == ["new"]
    assert (answer["inserted_chunks"], answer["deleted_chunks"], answer["embedded_chunks"]) == (4, 3, 1)
    assert (await bot.search("new", limit=1))[0]["chunk_index"] == 1
    await assert_right_vectors(services, bot, db, index)


async def test_texts_may_change_places_and_leave(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, embedder: CountingEmbedder
) -> None:
    doc_id = await bot.insert(*TEXTS)
    embedder.embedded.clear()
    assert (await put(bot, doc_id, "three", "one"))["embedded_chunks"] == 0
    assert (await put(bot, doc_id, "one", "three"))["embedded_chunks"] == 0
    assert embedder.embedded == []
    assert await bot.search("two", limit=5) != []
    await assert_right_vectors(services, bot, db, index)


async def test_a_new_title_embeds_nothing(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, embedder: CountingEmbedder
) -> None:
    doc_id = await bot.insert(*TEXTS, "one", title="old")
    embedder.embedded.clear()
    body = {"chat_bot_id": str(bot.bot_id), "metadata_updates": {"title": "zebra"}}
    answer = await bot.http.patch(f"/data/document/{doc_id}/metadata", json=body)
    assert answer.status_code == 200, answer.text
    assert embedder.embedded == []
    assert len(await bot.search("zebra", mode="lexical")) == 4
    assert (await bot.search("two", mode="dense", limit=1))[0]["chunk_index"] == 1
    await assert_right_vectors(services, bot, db, index)


@pytest.mark.parametrize("text", ["One", "one ", "one\n", "\u1112\u1161\u11ab"])
async def test_a_text_that_looks_the_same_is_another(bot: BotClient, embedder: CountingEmbedder, text: str) -> None:
    """The texts of chunks are stored as they are sent, in any normal form."""
    doc_id = await bot.insert("one", "\ud55c")
    embedder.embedded.clear()
    await put(bot, doc_id, text)
    assert embedder.embedded == [text]


@pytest.mark.parametrize("damage", ["lost", "nan", "length", "dimension"])
async def test_an_unusable_vector_is_embedded(
    bot: BotClient,
    services: Services,
    db: Database,
    index: FaultyIndex,
    embedder: CountingEmbedder,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doc_id = await bot.insert(*TEXTS)
    read = index.embeddings
    bad = {"nan": np.nan, "length": 2.0}

    async def embeddings(collection: str, chunk_ids: Sequence[int], **options: Any) -> dict[int, Vectors]:
        found = await read(collection, chunk_ids, **options)
        first = doc_id * CHUNKS_PER_GENERATION
        if damage == "lost":
            del found[first]
        else:
            found[first] = found[first][:8] if damage == "dimension" else found[first] * np.float32(bad[damage])
        return found

    monkeypatch.setattr(index, "embeddings", embeddings)
    embedder.embedded.clear()
    assert (await put(bot, doc_id, *TEXTS))["embedded_chunks"] == 1
    assert embedder.embedded == ["one"]
    monkeypatch.undo()
    await assert_right_vectors(services, bot, db, index)


@pytest.mark.parametrize("error", [VectorIndexUnavailable("no answer"), CollectionMissing("gone")])
async def test_vectors_that_cannot_be_read_are_embedded(
    bot: BotClient, index: FaultyIndex, db: Database, services: Services, error: Exception
) -> None:
    doc_id = await bot.insert(*TEXTS)
    remove = install(_raising("write.before_carry", error))
    assert (await put(bot, doc_id, *TEXTS))["embedded_chunks"] == 3
    remove()
    await assert_right_vectors(services, bot, db, index)


def _raising(point: str, error: Exception):  # type: ignore[no-untyped-def]
    async def hook(name: str) -> None:
        if name == point:
            raise error

    return hook


async def test_a_source_that_is_replaced_meanwhile_fails_only_its_own_write(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, at: Callable[..., Any]
) -> None:
    doc_id = await bot.insert(*TEXTS)

    async def collected() -> bool:
        first = doc_id * CHUNKS_PER_GENERATION
        return not await index.present(f"bot_{bot.bot_id.hex}", [(first, first + len(TEXTS))])

    async def overtake() -> None:
        await put(bot, doc_id, "two", "quicker")
        await until(collected)

    at("write.before_carry", overtake)
    answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("one", "slower"))
    assert answer.status_code in (200, 409)  # It depends on which of the two was in T1 first.
    await assert_right_vectors(services, bot, db, index)


async def test_an_unembeddable_new_text_names_its_place(
    bot: BotClient, db: Database, index: FaultyIndex, embedder: CountingEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc_id = await bot.insert(*TEXTS)

    async def embed(texts: Sequence[str]) -> Vectors:
        raise PartialEmbeddingError(np.zeros((len(texts), embedder.dimension)), {0: EmbeddingInvalid("no vector")})

    monkeypatch.setattr(embedder, "embed_documents", embed)
    answer = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("one", "two", "new", "three"))
    assert answer.status_code == 502
    assert "chunk_index 2" in answer.json()["detail"]
    await assert_at_rest(db, index)


async def test_a_long_document_goes_through_in_parts(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, embedder: CountingEmbedder
) -> None:
    texts = [f"text {number}" for number in range(1300)]
    doc_id = await bot.insert(*texts)
    embedder.embedded.clear()
    texts[700] = "changed"
    texts.insert(5, "inserted")
    assert (await put(bot, doc_id, *texts))["embedded_chunks"] == 2
    assert sorted(embedder.embedded) == ["changed", "inserted"]
    await assert_right_vectors(services, bot, db, index)
