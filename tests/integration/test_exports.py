"""Exports beside changes of documents and bots, and files that are cut off."""

import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tqdm import tqdm

from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.transfer import export
from app.core.transfer.importing import Imported
from app.export_command import export_bot
from app.export_file import ExportFile, ExportWriter
from app.utils.errors import BotNotFound, ExportOvertaken, InvalidInput, VectorIndexUnavailable
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient
from tests.integration.conftest import FaultyIndex, assert_at_rest
from tests.integration.transfers import (
    assert_same,
    document,
    export_to,
    import_from,
    insert,
    lines_of,
    other_bot,
    without_ids,
)


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
