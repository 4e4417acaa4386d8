"""GET /collection/{chat_bot_id}/export."""

import asyncio
import gzip
import json
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest

from app.api.deadline import Deadline
from app.api.limits import Limits
from app.core.services import Services
from app.core.stores.postgres.database import Database
from app.core.transfer import export
from app.core.transfer.format import Manifest
from app.models.transfer import read_document
from app.utils.errors import DeadlineExceeded, VectorIndexUnavailable
from tests.conftest import BotClient, until
from tests.doubles.memory_index import MemoryIndex


def path(bot: BotClient) -> str:
    return f"/collection/{bot.bot_id}/export"


async def test_an_export(bot: BotClient) -> None:
    doc_id = await bot.insert("가", "b", title="경복궁", external_id="x", metadata={"n": 1})
    answer = await bot.http.get(path(bot))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.headers["content-disposition"] == f'attachment; filename="{bot.bot_id}.ndjson"'
    first, line, last = answer.content.splitlines(keepends=True)
    manifest = Manifest.read(first)
    assert (manifest.documents, manifest.chunks, manifest.vectors) == (1, 2, True)
    assert manifest.bot.chat_bot_id == bot.bot_id
    stored = (await bot.http.get(f"/data/document/{doc_id}", params={"chat_bot_id": str(bot.bot_id)})).json()
    document = json.loads(line)
    fields = {"doc_id", "created_at", "updated_at", "chunk_count"}
    assert document["document"] == {key: value for key, value in stored["document"].items() if key not in fields}
    assert document["doc_id"] == doc_id
    assert document["created_at"].replace("+00:00", "Z") == stored["document"]["created_at"]
    assert [chunk["text"] for chunk in document["chunks"]] == ["가", "b"]
    end = json.loads(last)
    assert end == {"end": True, "documents": 1, "chunks": 2, "vectors": 2, "sha256": sha256(first + line).hexdigest()}
    assert manifest.bot.embedding_model is not None
    read = read_document(line, bot.bot_id, (manifest.bot.embedding_model, manifest.bot.dimension or 0))
    assert read.vectors is not None
    assert len(read.vectors.by_index) == 2


async def test_its_parameters(bot: BotClient) -> None:
    await bot.insert("a")
    answer = await bot.http.get(path(bot), params={"gzip": "true", "vectors": "false"})
    assert answer.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in answer.headers
    _, line, last = map(json.loads, gzip.decompress(answer.content).splitlines())
    assert line["chunks"] == [{"chunk_index": 0, "text": "a", "page_number": None}]
    assert last["vectors"] == 0
    assert (await bot.http.get(path(bot), params={"zip": "true"})).status_code == 422
    assert (await bot.http.get(f"/collection/{uuid4()}/export")).json()["code"] == "bot_not_found"


async def test_a_store_that_fails(
    bot: BotClient, services: Services, index: MemoryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first page the answer is an error; later the body has no end."""
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 1)
    monkeypatch.setattr(export, "PIECE_BYTES", 1)
    for text in "abc":
        await bot.insert(text)
    embeddings = index.embeddings
    calls_left = 0

    async def down(*args: Any, **options: Any) -> Any:
        nonlocal calls_left
        calls_left -= 1
        if calls_left < 0:
            raise VectorIndexUnavailable("Milvus did not answer in time.")
        return await embeddings(*args, **options)

    monkeypatch.setattr(index, "embeddings", down)
    answer = await bot.http.get(path(bot))
    assert (answer.status_code, answer.json()["code"]) == (503, "vector_index_unavailable")
    assert "retry-after" in answer.headers
    calls_left = 2
    with pytest.raises(RuntimeError, match="response already started"):  # uvicorn then closes the connection.
        await bot.http.get(path(bot))
    calls_left = 9
    assert (await bot.http.get(path(bot))).content.endswith(b"}\n")


async def test_no_transaction_is_open_while_a_reader_is_slow(
    bot: BotClient, services: Services, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PIECE_BYTES", 1)
    for text in "abc":
        await bot.insert(text)
    pieces = await services.exporter.open(bot.bot_id, None)
    await anext(pieces)

    async def none_is_open() -> bool:
        """Apart from those of background work, which end."""
        return not await db.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)"
        )

    await until(none_is_open)
    assert (await anext(pieces)).endswith(b"\n")


# ------------------------------------------------------------------ its deadline


async def sent(pieces: int, pause: float, of: str = "/collection/7f3c1e9a-2b4d-4c6e-8f10-1a2b3c4d5e6f/export") -> int:
    """How many pieces pass a deadline of 0.2 s for ingests and 0.1 s for others."""
    count = 0

    async def app(_scope: Any, _receive: Any, send: Callable[[Any], Any]) -> None:
        for _ in range(pieces):
            await asyncio.sleep(pause)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(_message: Any) -> None:
        nonlocal count
        count += 1

    limits = Limits(request_seconds=0.1, ingest_seconds=0.2)
    scope = {"type": "http", "method": "GET", "path": of, "state": {"limits": limits}}
    with suppress(DeadlineExceeded):
        await Deadline(app)(scope, receive, send)
    return count


async def test_an_export_may_take_long_and_each_of_its_pieces_may_not() -> None:
    assert await sent(8, 0.05) == 8
    assert await sent(2, 1.0) == 0
    assert await sent(8, 0.05, "/collection/list") < 3
