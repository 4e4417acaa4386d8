"""Requests of the simulated clients that export a bot, and that import documents as a part which is sent again."""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from hashlib import sha256
from random import Random
from typing import Any

import numpy as np
import orjson

from app.api.imports import ExportLines
from app.api.limits import Limits
from app.core.transfer.format import WholeCheck
from app.schemas.stream_rows import PartName, ResultPlace
from app.utils.errors import AppError
from tests.exports import encoded, export_of
from tests.simulation.edits import Edits
from tests.simulation.embedder import DIMENSION, UNUSABLE, embedding
from tests.simulation.history import Read, Span, Walk
from tests.simulation.process import Process
from tests.simulation.world import Violation

TOLERANCE = 1e-4
LIMIT = 100
"""More lines than a part has."""


class Transfers(Edits):
    async def export(self, bot: int) -> None:
        """What it shows is checked as a walk, and each document as if it had been read by itself."""
        span = Span(self.world.loop.time())

        async def work(process: Process) -> bytes:
            return b"".join([piece async for piece in await process.exporter.open(self._bot_id(bot), None)])

        content = await self._ask(span, f"export bot {bot}", work, bot=bot)
        if content is None:
            return
        whole, hashed, lines = WholeCheck(), sha256(), content.splitlines(keepends=True)
        for line in lines:
            whole.see(line, hashed)
            hashed.update(line)
        if whole.torn:
            raise Violation(f"an export that has ended {whole.torn}")
        shown = [orjson.loads(line) for line in lines[1:-1]]
        self._history.walks.append(Walk(span, bot, [one["doc_id"] for one in shown]))
        for one in shown:
            _check_vectors(one["chunks"])
            if one["doc_id"] in self._history.documents:
                texts = [chunk["text"] for chunk in one["chunks"]]
                patched = one["document"]["metadata"].get("patched")
                self._history.reads.append(Read(span, bot, one["doc_id"], texts, patched))

    async def load(self, bot: int, random: Random) -> None:
        """An import of new documents, sent again until it is answered. Sometimes two requests send it at once."""
        made = [self._version(random.randint(1, 3), random.random() < 0.05) for _ in range(random.randint(1, 3))]
        for version, _ in made:
            self._history.unsure.append(version)
        documents = [
            {
                "document": {"title": new.title, "metadata": new.metadata},
                "chunks": [_chunk(one.chunk_index, one.text, random) for one in new.chunks],
            }
            for _, new in made
        ]
        content, key = export_of(self._bot_id(bot), documents, "simulated", DIMENSION), f"load {made[0][0].texts[0]}"
        answers: list[list[dict[str, Any]]] = []
        began = self.world.loop.time()

        async def attempt() -> None:
            found = await self._ask(
                Span(self.world.loop.time()),
                f"load {[version.texts for version, _ in made]}",
                lambda process: _load(process, PartName(self._bot_id(bot), key, 1), self._account(bot), content),
                unknown=(AppError,),  # Lines before the error are stored.
            )
            if found is not None:
                answers.append(found)

        for _ in range(5):
            await asyncio.gather(*(attempt() for _ in range(random.choice((1, 1, 2)))))
            if answers and random.random() < 0.5:
                break
            await asyncio.sleep(random.random() * 3)
        if any(span.maybe_after(began) for span in self._history.bots[bot].deletes):
            answers.clear()  # The part was deleted with the bot, and a later attempt loaded it again.
        if any(answer != answers[0] for answer in answers):
            raise Violation(f"one part, several results: {answers}")
        if answers and len(answers[0]) != len(made):
            raise Violation(f"{len(made)} lines have {len(answers[0])} results")
        results = answers[0] if answers else [None] * len(made)
        for (version, _), result in zip(made, results, strict=True):
            version.span.end = self.world.loop.time()
            version.span.outcome = "unknown" if result is None else "done" if result["success"] else "failed"
            if result and result["success"]:
                self._known(bot, result["doc_id"], version)


async def _load(process: Process, name: PartName, account: str, content: bytes) -> list[dict[str, Any]]:
    """The results of all lines, also of those that were stored before."""

    async def body() -> AsyncIterator[bytes]:
        yield content

    handler = ExportLines(process.importer, name.bot_id, account, Limits(), "error", vectors=True)
    loading = await process.streams.load(name, account, body(), handler, 1 << 20)
    async for _ in loading.run():
        pass
    if handler.torn:
        raise Violation(f"the export {handler.torn}")
    found, _ = await process.streams.results(
        name.bot_id, account, name.stream_key, ResultPlace(0, 0), LIMIT, failed=False
    )
    return [result for _, result in found]


def _chunk(index: int, text: str, random: Random) -> dict[str, Any]:
    """Nobody has a vector of a text that the embedder does not take: a rebuild could not make it again."""
    vector = None if random.random() < 0.3 or UNUSABLE in text else encoded(_unit(text))
    return {"chunk_index": index, "text": text, "vector": vector}


def _unit(text: str) -> Any:
    vector = embedding(text)
    return vector / np.linalg.norm(vector)


def _check_vectors(chunks: list[dict[str, Any]]) -> None:
    for chunk in chunks:
        if chunk["vector"] is not None:
            vector = np.frombuffer(b64decode(chunk["vector"]), "<f4")
            if not float(vector @ _unit(chunk["text"])) > 1 - TOLERANCE:
                raise Violation(f"an export has a vector that is not of its text: {chunk['text']}")
