"""One bot's latency while there are more and more other bots."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import orjson
from tqdm import tqdm

from scripts.benchmarks.figures import Table, percentile
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import new_bot, opened_world

DOCUMENT_CHUNKS = 30
BATCH = 50
REST_SECONDS = 60.0
"""Before anything is measured: Milvus is still busy with what was just written."""


@dataclass
class MeasuredServer:
    """A server with its own stores, the one bot that is searched, and the milliseconds of each call."""

    bots: int
    connection: Connection
    bot: str
    doc_id: int
    times: dict[str, list[float]] = field(default_factory=lambda: {"search": [], "lookup": []})

    async def ask(self, number: int) -> None:
        body = {"chat_bot_id": self.bot, "query_text": f"question {number}", "mode": "dense"}
        self.times["search"].append(await timed(self.connection, "POST", "/search/query", body))
        path = f"/data/document/{self.doc_id}?chat_bot_id={self.bot}"
        self.times["lookup"].append(await timed(self.connection, "GET", path, None))


async def measure(milvus: str, counts: Sequence[int], chunks: int, queries: int) -> list[Table]:
    note = (
        f"Bots of {chunks:,} chunks, hash embedder. For each number of bots a server with stores of its own, all of "
        f"them running. {queries} searches and lookups of one bot of each, one client, the servers taking turns after "
        f"{REST_SECONDS:.0f} s of rest; ratios of p50 to the first one's."
    )
    table = Table(f"bots-{milvus}", f"One bot beside others, Milvus {milvus}", note=note)
    async with AsyncExitStack() as stack:
        asked = []
        for count in counts:
            world = await stack.enter_async_context(opened_world(milvus))
            url = stack.enter_context(world.api("hash"))
            asked.append(await _filled(await Connection.open(url), count, chunks))
        await asyncio.sleep(REST_SECONDS)
        for number in tqdm(range(queries), desc="questions", disable=None):
            for one in asked:
                await one.ask(number)
        for one in asked:
            cells: dict[str, Any] = {"bots": str(one.bots)}
            for name, times in one.times.items():
                cells |= {f"{name}_p50_ms": median(times), f"{name}_p95_ms": percentile(times, 95)}
                cells[f"{name}_ratio"] = f"{median(times) / median(asked[0].times[name]):.2f}"
            table.add(**cells)
            tqdm.write(str(cells))
            one.connection.close()
    return [table]


async def _filled(connection: Connection, count: int, chunks: int) -> MeasuredServer:
    """Fills ``count`` bots; the one in the middle will be searched."""
    bots, doc_ids = [], []
    for number in tqdm(range(count), desc=f"{count} bots", unit="bot", disable=None):
        bots.append(await new_bot(connection))
        doc_ids.append(await _fill(connection, bots[-1], number, chunks))
    return MeasuredServer(count, connection, bots[count // 2], doc_ids[count // 2])


async def _fill(connection: Connection, bot: str, number: int, chunks: int) -> int:
    documents = [
        {
            "document": {"chat_bot_id": bot, "title": f"document {start}"},
            "chunks": [
                {"chunk_index": index, "text": f"bot {number} document {start} chunk {index}"}
                for index in range(min(DOCUMENT_CHUNKS, chunks - start))
            ],
        }
        for start in range(0, chunks, DOCUMENT_CHUNKS)
    ]
    doc_id = 0
    for start in range(0, len(documents), BATCH):
        answer = await connection.call("POST", "/data/insert/batch", {"documents": documents[start : start + BATCH]})
        assert answer["failure_count"] == 0, answer
        doc_id = answer["results"][-1]["doc_id"]
    return doc_id


async def timed(connection: Connection, method: str, path: str, body: object) -> float:
    began = time.perf_counter()
    status, content = await connection.send(method, path, b"" if body is None else orjson.dumps(body))
    assert status == 200, content
    return 1000 * (time.perf_counter() - began)
