"""Exports and imports of bots whose stores fail, whose documents change and whose processes die in the middle."""

import asyncio
import gzip
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from tqdm import tqdm

from app.core.embedding.port import Vectors
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.transfer import export, importing
from app.core.transfer.importing import Imported
from app.core.write.upsert import OnConflict
from app.export_command import export_bot
from app.export_file import ExportFile, ExportWriter
from app.schemas.rows import NewChunk, NewDocument
from app.utils.errors import (
    BotNotFound,
    ExportOvertaken,
    InvalidInput,
    Unavailable,
    VectorIndexUnavailable,
    VectorsDiffer,
)
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient
from tests.integration.conftest import Crash, FaultyEmbedder, FaultyIndex, assert_at_rest, expire


@pytest.fixture
def embedder() -> FaultyEmbedder:
    return FaultyEmbedder()


def document(number: int, chunks: int = 2, *, named: bool = True) -> NewDocument:
    texts = [NewChunk(3 * index, f"문서 {number} chunk {index}", index or None) for index in range(chunks)]
    return NewDocument(
        f"Title {number}",
        texts,
        f"/files/{number}.txt",
        "txt",
        "저자",
        ["a", f"t{number}"],
        {"n": number, "deep": {"x": [1, None, "나"]}},
        f"doc/{number}" if named else None,
    )


async def insert(services: Services, bot_id: UUID, documents: Sequence[NewDocument]) -> list[int]:
    outcomes = await services.ingest.insert_many(None, [(bot_id, one) for one in documents], Stopwatch())
    return [outcome.doc_id for outcome in outcomes if outcome.doc_id is not None]


async def lines_of(services: Services, bot_id: UUID, *, vectors: bool = True) -> list[dict[str, Any]]:
    pieces = [piece async for piece in await services.exporter.open(bot_id, None, vectors=vectors)]
    return [json.loads(line) for line in b"".join(pieces).splitlines()]


async def export_to(services: Services, bot_id: UUID, path: Path) -> ExportFile:
    writer = ExportWriter(path)
    async for piece in await services.exporter.open(bot_id, None):
        writer.write(piece)
    writer.complete()
    return ExportFile(path)


async def import_from(
    services: Services, file: ExportFile, bot_id: UUID, on_conflict: OnConflict = "error", *, vectors: bool = True
) -> list[Imported]:
    begun = await services.importer.begin(bot_id, file.manifest().export_id, on_conflict)
    return [one for batch in file.batches(bot_id, vectors=vectors) for one in await begun.store(batch)]


def assert_same(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> None:
    """Two exports have the same documents, and vectors that differ by at most 1e-6."""
    assert without_vectors(one) == without_vectors(other)
    assert np.abs(vectors_of(one) - vectors_of(other)).max() <= 1e-6


def vectors_of(lines: Sequence[dict[str, Any]]) -> Vectors:
    raw = b"".join(b64decode(chunk["vector"]) for one in lines[1:-1] for chunk in one["chunks"])
    return np.frombuffer(raw, "<f4")


def without_vectors(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    chunks = [[chunk | {"vector": None} for chunk in one["chunks"]] for one in lines[1:-1]]
    return [one | {"chunks": own} for one, own in zip(without_ids(lines), chunks, strict=True)]


def without_ids(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Documents without what another installation gives anew."""
    return [{key: value for key, value in one.items() if key not in ("doc_id", "updated_at")} for one in lines[1:-1]]


async def other_bot(services: Services, bot: BotClient) -> UUID:
    """An empty bot beside it."""
    bot_id = uuid4()
    response = await bot.http.post(
        "/collection/create",
        json={"chat_bot_id": str(bot_id), "bot_name": "other", "collection_name": f"c_{bot_id.hex}"},
    )
    assert response.status_code == 201
    return bot_id


@pytest.fixture(params=["ndjson", "ndjson.gz"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"bot.{request.param}"


async def test_a_bot_comes_back_as_it_was(
    bot: BotClient, services: Services, path: Path, db: Database, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 3)
    monkeypatch.setattr(export, "PIECE_BYTES", 1_000)
    await insert(services, bot.bot_id, [document(number, named=number % 2 == 0) for number in range(10)])
    await db.execute("UPDATE documents SET created_at = created_at - doc_id * interval '1 day'")
    file = await export_to(services, bot.bot_id, path)
    checked = file.check()
    assert (checked.end.documents, checked.end.chunks, checked.end.vectors) == (10, 20, 20)
    assert (checked.manifest.documents, checked.manifest.chunks) == (10, 20)
    assert checked.manifest.bot.chat_bot_id == bot.bot_id
    target = await other_bot(services, bot)
    results = await import_from(services, file, target)
    assert results == [Imported("created")] * 10, "no text was embedded"
    before, after = await lines_of(services, bot.bot_id), await lines_of(services, target)
    assert_same(before, after)
    assert {one["doc_id"] for one in before[1:-1]}.isdisjoint(one["doc_id"] for one in after[1:-1])
    await assert_at_rest(db, index)


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


# ------------------------------------------------------------------ an export beside changes


class Overtaken:
    """Runs an action between the first page of an export and the vectors of that page."""

    def __init__(self, index: FaultyIndex, act: Callable[[], Any]) -> None:
        self._embeddings = index.embeddings
        self._act: Callable[[], Any] | None = act

    async def __call__(self, collection: str, chunk_ids: Sequence[int], **options: Any) -> Any:
        if self._act is not None:
            act, self._act = self._act, None
            await act()
        return await self._embeddings(collection, chunk_ids, **options)


async def replaced(services: Services, db: Database, bot_id: UUID, doc_id: int, index: FaultyIndex) -> None:
    await services.ingest.replace(bot_id, None, doc_id, document(99, named=False), Stopwatch())
    await assert_at_rest(db, index)  # The former vectors are collected.


async def test_a_document_that_was_just_replaced_is_read_again(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = await insert(services, bot.bot_id, [document(1, named=False), document(2)])
    overtaken = Overtaken(index, lambda: replaced(services, db, bot.bot_id, first, index))
    monkeypatch.setattr(index, "embeddings", overtaken)
    lines = await lines_of(services, bot.bot_id)
    assert [one["document"]["title"] for one in lines[1:-1]] == ["Title 99", "Title 2"]
    assert all(chunk["vector"] for one in lines[1:-1] for chunk in one["chunks"])
    assert lines[-1]["vectors"] == 4


async def test_a_document_that_was_just_deleted_is_left_out(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = await insert(services, bot.bot_id, [document(1), document(2)])

    async def delete() -> None:
        await services.documents.delete(bot.bot_id, None, first)
        await assert_at_rest(db, index)

    monkeypatch.setattr(index, "embeddings", Overtaken(index, delete))
    lines = await lines_of(services, bot.bot_id)
    assert [one["document"]["title"] for one in lines[1:-1]] == ["Title 2"]
    assert (lines[0]["documents"], lines[-1]["documents"]) == (2, 1)


async def test_vectors_that_milvus_lost_are_null(
    bot: BotClient, services: Services, index: FaultyIndex, db: Database, tmp_path: Path
) -> None:
    await insert(services, bot.bot_id, [document(1), document(2)])
    (row,) = await db.fetch("SELECT milvus_collection, collection_name FROM bot_registry")
    name = row["milvus_collection"] or row["collection_name"]
    (keys,) = [page async for page in index.scan(name)]
    await index.delete(name, keys[:1])
    file = await export_to(services, bot.bot_id, tmp_path / "bot.ndjson")
    assert file.check().end.vectors == 3
    target = await other_bot(services, bot)
    assert sum(one.embedded_chunks for one in await import_from(services, file, target)) == 1
    await index.drop(name)
    assert (await lines_of(services, bot.bot_id))[-1]["vectors"] == 0


async def test_the_vectors_of_a_large_document_are_read_in_parts(
    bot: BotClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("VECTORS", 4), ("PIECE_BYTES", 1_000)):
        monkeypatch.setattr(export, name, value)
    await insert(services, bot.bot_id, [document(1, chunks=11), document(2)])
    pieces = [piece async for piece in await services.exporter.open(bot.bot_id, None)]
    assert len(pieces) > 3
    lines = [json.loads(line) for line in b"".join(pieces).splitlines()]
    assert [len(one["chunks"]) for one in lines[1:-1]] == [11, 2]
    assert lines[-1]["vectors"] == 13


async def cut_off(pieces: AsyncIterator[bytes]) -> bytes:
    """What an export has sent when it fails."""
    sent: list[bytes] = []

    async def read_on() -> None:
        while (piece := await anext(pieces, None)) is not None:
            sent.append(piece)

    with pytest.raises((ExportOvertaken, VectorIndexUnavailable)):
        await read_on()
    return b"".join(sent)


@pytest.mark.parametrize("what", ["deleted", "made again", "moved", "milvus"])
async def test_an_export_that_cannot_end_has_no_last_line(
    bot: BotClient, services: Services, db: Database, index: FaultyIndex, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 2)
    monkeypatch.setattr(export, "PIECE_BYTES", 1)
    await insert(services, bot.bot_id, [document(number) for number in range(6)])
    pieces = await services.exporter.open(bot.bot_id, None)
    sent = await anext(pieces)
    if what == "moved":
        await db.execute("UPDATE bot_registry SET embedding_model = 'another'")
    elif what == "milvus":

        async def down(*_args: object, **_options: object) -> None:
            raise VectorIndexUnavailable("Milvus did not answer in time.")

        monkeypatch.setattr(index, "embeddings", down)
    else:
        await services.bots.delete(bot.bot_id, None)
        if what == "made again":
            body = {"chat_bot_id": str(bot.bot_id), "bot_name": "b", "collection_name": f"c_{bot.bot_id.hex}"}
            assert (await bot.http.post("/collection/create", json=body)).status_code == 201
            await insert(services, bot.bot_id, [document(7), document(8)])
    sent += await cut_off(pieces)
    assert b'"end":true' not in sent


async def test_an_unknown_bot_is_an_error_at_once(services: Services) -> None:
    with pytest.raises(BotNotFound):
        await services.exporter.open(uuid4(), None)


# ------------------------------------------------------------------ files


def torn(path: Path) -> Iterator[int]:
    """Cuts the file off at several places."""
    whole = path.read_bytes()
    # Without its last byte a file that is not compressed lacks only a newline.
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 20, len(whole) - 2):
        path.write_bytes(whole[:size])
        yield size


def shortened(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size - count])


async def test_a_torn_file_is_recognised(bot: BotClient, services: Services, path: Path) -> None:
    await insert(services, bot.bot_id, [document(number) for number in range(20)])
    file = await export_to(services, bot.bot_id, path)
    for _ in torn(path):
        with pytest.raises(InvalidInput):
            file.check()


@pytest.mark.parametrize(("pieces", "missing"), [(2, 7), (4, 0)])
async def test_a_file_that_was_cut_off_is_continued(
    bot: BotClient, services: Services, path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int, missing: int
) -> None:
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 3)
    monkeypatch.setattr(export, "PIECE_BYTES", 1_000)
    await insert(services, bot.bot_id, [document(number, chunks=3) for number in range(12)])
    expected = without_ids(await lines_of(services, bot.bot_id))
    writer = ExportWriter(path)
    assert writer.kept() is None
    began = await services.exporter.open(bot.bot_id, None)
    for _ in range(pieces):
        writer.write(await anext(began))
    shortened(path.with_name(f"{path.name}.part"), missing)
    writer = ExportWriter(path)
    kept = writer.kept()
    assert kept is not None
    manifest, written, complete = kept
    assert not complete
    assert 0 < written.documents < 12
    async for piece in await services.exporter.resume(manifest, written):
        writer.write(piece)
    done = ExportWriter(path).kept()
    assert done is not None
    assert done[2]
    writer.complete()
    assert ExportFile(path).check().end.documents == 12
    assert without_ids(read(path)) == expected
    with pytest.raises(InvalidInput, match="exists already"):
        ExportWriter(path)


async def test_a_complete_part_of_another_bot_is_not_taken(bot: BotClient, services: Services, tmp_path: Path) -> None:
    await insert(services, bot.bot_id, [document(1)])
    empty = await other_bot(services, bot)
    path = tmp_path / "bot.ndjson"
    for bot_id, documents in ((empty, 0), (bot.bot_id, 1)):
        writer = ExportWriter(path)
        async for piece in await services.exporter.open(empty, None):
            writer.write(piece)  # By a run that was stopped before it gave the file its name.
        with tqdm(disable=True) as bar:
            end = await export_bot(services.exporter, bot_id, writer, bar, vectors=True)
        assert end.documents == documents
        assert ExportFile(path).check().manifest.bot.chat_bot_id == bot_id
        path.unlink()


def read(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]
