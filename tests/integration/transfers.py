"""What tests of exports and imports share."""

import json
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np

from app.core.embedding.port import Vectors
from app.core.services import Services
from app.core.transfer.importing import Imported
from app.core.write.upsert import OnConflict
from app.export_file import ExportFile, ExportWriter
from app.schemas.rows import NewChunk, NewDocument
from app.utils.stopwatch import Stopwatch
from tests.conftest import BotClient


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
