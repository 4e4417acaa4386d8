"""Parts of streams in the crash test: one that was cut off is sent again, and each of its lines takes effect once.

A part is a bulk load or an import. An export is whole, or is recognised as torn.
"""

import asyncio
from base64 import b64decode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import numpy as np
import orjson

from app.core.transfer.format import WholeCheck
from tests.chaos.answer_checks import check_document, check_walk, embedding
from tests.chaos.chunk_text import parse_chunk_text
from tests.chaos.client import Client
from tests.chaos.model import Bot, Document, Op, Violation, now
from tests.doubles.hash_embedder import HashEmbedder
from tests.exports import encoded, export_of

URL, IMPORT = "/data/insert/stream", "/collection/import"


@dataclass(frozen=True)
class Part:
    bot: Bot
    documents: list[Document]
    ops: list[list[Op]]
    """Of each document."""
    stream_key: str
    content: bytes
    url: str
    first_line: int
    """The number of the line of the first document."""


async def load_part(client: Client, bot: Bot) -> None:
    """A part with some new documents, sometimes as the export of a bot, with some of the vectors."""
    new = [client.new(bot) for _ in range(client.random.randint(1, 6))]
    client.world.operations += len(new)
    content, url, first_line = b"".join(orjson.dumps(body) + b"\n" for _, _, body in new), URL, 1
    if client.random.random() < 0.4:
        exported = [_exported(client, body) for _, _, body in new]
        content = export_of(bot.bot_id, exported, HashEmbedder.model, HashEmbedder().dimension)
        url, first_line = IMPORT, 2
    key = f"{client.random.getrandbits(64):x}"
    documents, ops = [document for document, _, _ in new], [ops for _, ops, _ in new]
    part = Part(bot, documents, ops, key, content, url, first_line)
    if not await _send(client, part):
        client.world.cut_parts.append(part)


async def send_again(client: Client, part: Part) -> None:
    """Sends a part again that was not answered, until it is stored."""
    while not await _send(client, part):
        if client.gone:
            return
        await asyncio.sleep(0.05)
    client.world.sent_again += 1


async def _send(client: Client, part: Part) -> bool:
    """Whether the part needs not be sent again."""
    params = {"chat_bot_id": str(part.bot.bot_id)}
    try:
        answer = await client.http.post(
            part.url, params={**params, "stream_key": part.stream_key, "part": 1}, content=part.content
        )
        _note(part, f"part {part.stream_key}: {answer.status_code} {answer.text}")
        results = None
        if answer.status_code == 200:
            results = await client.http.get(f"{URL}/{part.stream_key}/results", params=params)
    except httpx.TransportError as exc:
        client.gone = True
        _note(part, f"part {part.stream_key}: no answer ({type(exc).__name__})")
        _settle(client, part, "doubt")
        return False
    if answer.status_code == 500 or answer.json().get("code") == "part_differs":
        raise Violation(3, f"a part was answered with {answer.text}", part.bot.history)
    if answer.json().get("torn"):
        raise Violation(3, f"a whole export is torn: {answer.text}", part.bot.history)
    if results is None or results.status_code == 404:  # The bot is deleted, perhaps after the lines were stored.
        _settle(client, part, "doubt")
        return answer.status_code in (200, 404)
    if results.status_code != 200:
        _settle(client, part, "doubt")
        return False
    found = results.json()["results"]
    if [one["line"] for one in found] != list(range(part.first_line, part.first_line + len(part.documents))):
        raise Violation(6, f"a part has the results {results.text}", part.bot.history)
    for document, ops, one in zip(part.documents, part.ops, found, strict=True):
        if one["success"]:
            document.doc_id = one["doc_id"]
        client.settle(ops, "acknowledged" if one["success"] else "failed")
    return True


def _exported(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    """A document of a bulk load as one of an export."""
    chunks = [
        {**chunk, "vector": encoded(embedding(chunk["text"])) if client.random.random() < 0.7 else None}
        for chunk in body["chunks"]
    ]
    fields = {key: value for key, value in body["document"].items() if key != "chat_bot_id"}
    return {"document": fields, "chunks": chunks}


async def export(client: Client, bot: Bot) -> None:
    """Each document of it is judged as if it had been read by itself; all of them as a walk, if it is whole."""
    client.world.reads += 1
    start, content = now(), b""
    try:
        async with client.http.stream("GET", f"/collection/{bot.bot_id}/export") as answer:
            async for piece in answer.aiter_bytes():
                content += piece
    except httpx.TransportError:
        client.gone = not content  # Otherwise the next call finds whether the server died, or the bot was deleted.
    else:
        if answer.status_code == 500:
            raise Violation(3, f"an export was answered with {content!r}", bot.history)
        if answer.status_code == 404 and not bot.exists.saw(None, start, now()):
            raise Violation(3, f"an export said 404 of {bot.history.name}, which exists", bot.history)
        if answer.status_code != 200:
            return
        client.world.whole_exports += 1
        if check_export(bot, content, start, now()) is not None:
            raise Violation(3, f"an export that ended without an error is torn: {content[-300:]!r}", bot.history)
        return
    check_export(bot, content, start, now())


def check_export(bot: Bot, content: bytes, start: float, end: float) -> str | None:
    """Why it is torn; None if it is whole."""
    whole, hashed = WholeCheck(), sha256()
    lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    for line in lines:
        whole.see(line, hashed)
        hashed.update(line)
    doc_ids = []
    for line in lines[1 : None if whole.end is None else -1]:
        shown = orjson.loads(line)
        label = parse_chunk_text(shown["chunks"][0]["text"])
        document = bot.documents.get(label.label) if label else None
        if label is None or label.bot != bot.name or document is None:
            raise Violation(4, f"an export of {bot.history.name} has {shown}", bot.history)
        doc_ids.append(shown["doc_id"])
        check_document(document, httpx.Response(200, json=shown | {"chunk_count": len(shown["chunks"])}), start, end)
        for chunk in shown["chunks"]:
            vector = None if chunk["vector"] is None else np.frombuffer(b64decode(chunk["vector"]), "<f4")
            if vector is not None and float(vector @ embedding(chunk["text"])) < 0.999:
                raise Violation(8, f"an export has a vector that is not of {chunk['text']!r}", document.history)
    if whole.torn is None:
        check_walk(bot, doc_ids, start, end)
    return whole.torn


def _settle(client: Client, part: Part, outcome: str) -> None:
    for ops in part.ops:
        client.settle(ops, outcome)


def _note(part: Part, text: str) -> None:
    for document in part.documents:
        document.history.add(text)
