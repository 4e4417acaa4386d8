"""Imports whose stores fail and whose processes die in the middle, and vectors that cannot be taken."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.core.embedding.port import Vectors
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.transfer import importing
from app.core.transfer.importing import Imported
from app.core.write.upsert import OnConflict
from app.schemas.rows import NewDocument
from app.utils.errors import InvalidInput, Unavailable, VectorsDiffer
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient
from tests.integration.conftest import Crash, FaultyEmbedder, FaultyIndex, assert_at_rest, expire
from tests.integration.transfers import assert_same, document, export_to, import_from, insert, lines_of, other_bot


@pytest.fixture
def embedder() -> FaultyEmbedder:
    return FaultyEmbedder()


async def test_without_vectors_texts_are_embedded(bot: BotClient, services: Services, tmp_path: Path) -> None:
    await insert(services, bot.bot_id, [document(1), document(2)])
    with_vectors = await lines_of(services, bot.bot_id)
    assert all(
        "vector" not in chunk
        for one in (await lines_of(services, bot.bot_id, vectors=False))[1:-1]
        for chunk in one["chunks"]
    )
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    target = await other_bot(services, bot)
    assert await import_from(services, file, target, vectors=False) == [Imported("created", None, 2)] * 2
    assert_same(await lines_of(services, target), with_vectors)


async def test_conflicts_are_those_of_an_insert(bot: BotClient, services: Services, tmp_path: Path) -> None:
    await insert(services, bot.bot_id, [document(1), document(2), document(3, named=False)])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    found = [one for one in (await services.documents.list(bot.bot_id, None, 0, 10))[0] if one.external_id == "doc/2"]
    await services.documents.patch(bot.bot_id, None, found[0].doc_id, {"author": "another"}, {})
    expected: dict[OnConflict, list[str]] = {
        "error": ["failed", "failed", "created"],
        "skip": ["skipped", "skipped", "created"],
        "replace_if_changed": ["unchanged", "replaced", "created"],
        "replace": ["replaced", "replaced", "created"],
    }
    for on_conflict, results in expected.items():
        await (await services.importer.begin(bot.bot_id, file.manifest().export_id, "error")).forget()
        assert [one.result for one in await import_from(services, file, bot.bot_id, on_conflict)] == results
    assert (await services.bots.counts(bot.bot_id)).documents == 3 + len(expected)


# ------------------------------------------------------------------ vectors that cannot be taken


def exchange_vectors(path: Path) -> None:
    """Each chunk gets the vector of the next."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    chunks = [chunk for one in lines[1:-1] for chunk in one["chunks"]]
    vectors = [chunk["vector"] for chunk in chunks]
    for chunk, vector in zip(chunks, vectors[1:] + vectors[:1], strict=True):
        chunk["vector"] = vector
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


async def test_foreign_vectors_are_refused(bot: BotClient, services: Services, tmp_path: Path, db: Database) -> None:
    await insert(services, bot.bot_id, [document(number) for number in range(3)])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    exchange_vectors(file.path)
    with pytest.raises(InvalidInput, match="was changed"):
        file.check()
    target = await other_bot(services, bot)
    with pytest.raises(VectorsDiffer):
        await import_from(services, file, target)
    assert (await services.bots.counts(target)).documents == 0
    assert not await db.fetch("SELECT FROM sagas")


async def test_vectors_of_another_model_or_length_are_not_taken(
    bot: BotClient, services: Services, tmp_path: Path
) -> None:
    await insert(services, bot.bot_id, [document(1)])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    (batch,) = file.batches(bot.bot_id, vectors=True)
    given = batch.documents[0]
    assert isinstance(given, NewDocument)
    assert given.vectors
    for changed in (
        given.vectors._replace(model="another"),
        given.vectors._replace(by_index={key: 2 * value for key, value in given.vectors.by_index.items()}),
        given.vectors._replace(
            by_index={key: value * np.float32("nan") for key, value in given.vectors.by_index.items()}
        ),
    ):
        one = NewDocument("t", given.chunks, vectors=changed)
        (outcome,) = await services.importer.store(bot.bot_id, None, [one], Stopwatch())
        assert (outcome.error, outcome.embedded_chunks) == (None, 2)


async def test_a_sample_is_drawn_from_all_vectors(
    bot: BotClient,
    services: Services,
    embedder: FaultyEmbedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importing, "SAMPLE_SHARE", 3)
    await insert(services, bot.bot_id, [document(1, chunks=9)])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    calls: list[int] = []
    embed = embedder.embed_documents

    async def counted(texts: Sequence[str]) -> Vectors:
        calls.append(len(texts))
        return await embed(texts)

    monkeypatch.setattr(embedder, "embed_documents", counted)
    await import_from(services, file, await other_bot(services, bot))
    assert calls == [3]


# ------------------------------------------------------------------ an import that dies


@pytest.mark.parametrize("point", ["write.after_t1", "write.before_t2", "write.after_t2"])
async def test_an_import_that_was_killed_goes_on(
    bot: BotClient,
    services: Services,
    tmp_path: Path,
    db: Database,
    index: FaultyIndex,
    at: Callable[..., asyncio.Event],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    monkeypatch.setattr("app.export_file.BATCH_DOCUMENTS", 2)
    await insert(services, bot.bot_id, [document(number, named=number % 3 == 0) for number in range(7)])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    expected = await lines_of(services, bot.bot_id)
    target = await other_bot(services, bot)
    reached = 0

    async def die_at_the_second_batch() -> None:
        nonlocal reached
        reached += 1
        if reached == 2:
            raise Crash

    at(point, die_at_the_second_batch, times=2)
    with suppress(Crash):
        await import_from(services, file, target)
    assert reached == 2
    await expire(db)
    results = await import_from(services, file, target)
    assert [one.result for one in results] == ["created"] * 7
    assert_same(await lines_of(services, target), expected)
    await assert_at_rest(db, index)


async def test_what_failed_for_a_while_is_stored_later_in_the_same_run(
    bot: BotClient, services: Services, tmp_path: Path, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert(services, bot.bot_id, [document(number) for number in range(2)])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    target = await other_bot(services, bot)
    monkeypatch.setattr(importing, "PAUSE_SECONDS", 0)
    index.fault = "before"
    with pytest.raises(Unavailable, match="Milvus did not answer"):
        await import_from(services, file, target)
    index.fault = None
    assert [one.result for one in await import_from(services, file, target)] == ["created"] * 2


async def test_an_attempt_that_stored_nothing_is_repeated_as_it_was(
    bot: BotClient, services: Services, tmp_path: Path, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer documents it would have another record, and the next run would store them once more."""
    await insert(services, bot.bot_id, [document(number, named=False) for number in range(2)])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    empty_document(file.path, 1)
    monkeypatch.setattr(importing, "PAUSE_SECONDS", 0)
    target = await other_bot(services, bot)
    store = services.importer.store

    async def available_at_the_second_attempt(*args: Any) -> Any:
        index.fault = None if calls else "before"
        calls.append(1)
        return await store(*args)

    calls: list[int] = []
    monkeypatch.setattr(services.importer, "store", available_at_the_second_attempt)
    for _ in range(2):
        assert [one.result for one in await import_from(services, file, target)] == ["failed", "created"]
    assert len(calls) == 3
    assert (await services.bots.counts(target)).documents == 1


def empty_document(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = json.dumps(json.loads(lines[number]) | {"chunks": []}).encode() + b"\n"
    path.write_bytes(b"".join(lines))


async def test_an_invalid_line_fails_alone(bot: BotClient, services: Services, tmp_path: Path) -> None:
    await insert(services, bot.bot_id, [document(number) for number in range(3)])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    empty_document(file.path, 2)
    target = await other_bot(services, bot)
    results = await import_from(services, file, target)
    assert [one.result for one in results] == ["created", "failed", "created"]
    assert "chunks" in (results[1].error or "")
