"""verify --vectors: a vector that is another text's is found and written again; those that are their texts' stay."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from app.core.embedding.port import Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.embedding.tolerance import tolerance
from app.core.operations.vector_check import VectorCheck
from app.core.operations.verify import Finding
from app.core.services import Services
from app.core.stores.postgres.bots import BotStore
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.verify import VerifyStore
from app.utils.errors import ModelMismatch
from tests.conftest import BotClient
from tests.doubles.hash_embedder import HashEmbedder
from tests.integration.conftest import FaultyIndex, assert_at_rest


async def found(services: Services, bot: BotClient, sample: int | None = None) -> list[Finding]:
    return [finding async for finding in services.vector_check.check_bot(bot.bot_id, sample)]


async def give(index: FaultyIndex, bot: BotClient, key: int, text: str) -> None:
    vectors = await HashEmbedder().embed_documents([text])
    await index.upsert(f"bot_{bot.bot_id.hex}", np.array([key]), np.array([key >> 16]), vectors, [text])


async def test_a_vector_of_another_text_is_found_and_written_again(
    services: Services, bot: BotClient, index: FaultyIndex, db: Database
) -> None:
    doc_id = await bot.insert("the opening hours", "the price list")
    other = await bot.insert("the way to the palace")
    await give(index, bot, (doc_id << 16) + 1, "refunds within a week")
    assert (await bot.search("refunds within a week", mode="dense"))[0]["chunk_text"] == "the price list"
    for state in await services.verifier.bots():
        assert [finding async for finding in services.verifier.check_bot(state)] == [], "both stores have the key"
    (finding,) = await found(services, bot)
    assert (finding.kind, finding.key, finding.doc_id) == ("vector_mismatch", (doc_id << 16) + 1, doc_id)

    findings = services.vector_check.check_bot(bot.bot_id)
    assert [one.kind async for one in services.repairer.repair_found(bot.bot_id, findings)] == ["vector_mismatch"]
    assert await found(services, bot) == []
    await assert_at_rest(db, index)
    assert (await bot.search("the price list", mode="dense"))[0]["score"] == pytest.approx(1, abs=1e-4)
    generations = await db.fetch("SELECT doc_id, generation FROM documents ORDER BY doc_id")
    assert [row["generation"] == row["doc_id"] for row in generations] == [False, True], "only what was wrong"
    assert generations[1]["doc_id"] == other


async def test_a_sample(services: Services, bot: BotClient, index: FaultyIndex) -> None:
    keys = [await bot.insert(f"text {number}") << 16 for number in range(20)]
    for key in keys:
        await give(index, bot, key, "another")
    assert await services.vector_check.count(bot.bot_id, 5) == 5
    drawn = {finding.key for finding in await found(services, bot, 5)}
    assert len(drawn) == 5
    assert drawn < set(keys)
    assert len(await found(services, bot, 100)) == await services.vector_check.count(bot.bot_id, 100) == 20


async def test_progress_counts_every_chunk(services: Services, bot: BotClient) -> None:
    for number in range(3):
        await bot.insert(*(f"{number} {chunk}" for chunk in range(250)))
    seen: list[int] = []
    assert [one async for one in services.vector_check.check_bot(bot.bot_id, None, seen.append)] == []
    assert (sum(seen), len(seen)) == (750, 2)


async def test_a_lost_vector_is_not_this_checks_business(
    services: Services, bot: BotClient, index: FaultyIndex
) -> None:
    doc_id = await bot.insert("a", "b")
    await index.delete(f"bot_{bot.bot_id.hex}", [doc_id << 16])
    assert await found(services, bot) == []


class Noisy(HashEmbedder):
    """As a provider over the network: the same text comes a little different each time."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self._noise, self._random = noise, np.random.default_rng(7)

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        vectors = await super().embed_documents(texts)
        noise = self._random.normal(size=vectors.shape)
        noise *= (
            self._noise * np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
        )
        return (vectors + noise).astype(np.float32)


@pytest.mark.parametrize(("noise", "mismatches"), [(0.05, 0), (0.5, 3)])
async def test_what_is_within_the_tolerance_is_right(
    services: Services, bot: BotClient, index: FaultyIndex, db: Database, noise: float, mismatches: int
) -> None:
    await bot.insert("a", "b", "c")
    bots = BotStore(db, services.vector_check._bots._late_write_window)  # type: ignore[attr-defined]
    check = VectorCheck(VerifyStore(db, 3), bots, index, EmbedderRegistry(Noisy(noise)))
    assert len([one async for one in check.check_bot(bot.bot_id)]) == mismatches


async def test_a_bot_of_another_model(services: Services, bot: BotClient, index: FaultyIndex, db: Database) -> None:
    await bot.insert("a")
    check = VectorCheck(VerifyStore(db, 3), services.vector_check._bots, index, EmbedderRegistry(HashEmbedder(32)))
    with pytest.raises(ModelMismatch):
        await anext(check.check_bot(bot.bot_id))


async def test_a_document_that_is_replaced_meanwhile(services: Services, bot: BotClient, index: FaultyIndex) -> None:
    doc_id = await bot.insert("a")
    await give(index, bot, doc_id << 16, "another")
    findings = services.vector_check.check_bot(bot.bot_id)
    replaced = await bot.http.put(f"/data/document/{doc_id}", json=bot.body("b"))
    assert replaced.status_code == 200
    assert [one async for one in services.repairer.repair_found(bot.bot_id, findings)] == []
    assert await asyncio.wait_for(found(services, bot), 10) == []


def test_each_provider_has_a_tolerance() -> None:
    assert tolerance("use-multilingual") < tolerance("sentence-bert:x") <= tolerance("openai:text-embedding-3-small")
