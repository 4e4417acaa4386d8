"""Parts of streams in the crash test: one that was cut off is sent again, and each of its lines takes effect once."""

import asyncio
from dataclasses import dataclass

import httpx
import orjson

from tests.chaos.client import Client
from tests.chaos.model import Bot, Document, Op, Violation

URL = "/data/insert/stream"


@dataclass(frozen=True)
class Part:
    bot: Bot
    documents: list[Document]
    ops: list[list[Op]]
    """Of each document."""
    stream_key: str
    content: bytes


async def load_part(client: Client, bot: Bot) -> None:
    """A part with some new documents, in pieces: what arrived before a pause is written."""
    new = [client.new(bot) for _ in range(client.random.randint(1, 6))]
    client.world.operations += len(new)
    content = b"".join(orjson.dumps(body) + b"\n" for _, _, body in new)
    key = f"{client.random.getrandbits(64):x}"
    part = Part(bot, [document for document, _, _ in new], [ops for _, ops, _ in new], key, content)
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
            URL, params={**params, "stream_key": part.stream_key, "part": 1}, content=part.content
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
    if results is None or results.status_code == 404:  # The bot is deleted, perhaps after the lines were stored.
        _settle(client, part, "doubt")
        return answer.status_code in (200, 404)
    if results.status_code != 200:
        _settle(client, part, "doubt")
        return False
    found = results.json()["results"]
    if [one["line"] for one in found] != list(range(1, len(part.documents) + 1)):
        raise Violation(6, f"a part has the results {results.text}", part.bot.history)
    for document, ops, one in zip(part.documents, part.ops, found, strict=True):
        if one["success"]:
            document.doc_id = one["doc_id"]
        client.settle(ops, "acknowledged" if one["success"] else "failed")
    return True


def _settle(client: Client, part: Part, outcome: str) -> None:
    for ops in part.ops:
        client.settle(ops, outcome)


def _note(part: Part, text: str) -> None:
    for document in part.documents:
        document.history.add(text)
