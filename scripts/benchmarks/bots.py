"""One bot's latency beside more and more other bots, on both stores."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import orjson
from tqdm import tqdm

from scripts.benchmarks.figures import Table, percentile
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import World, new_bot

DOCUMENT_CHUNKS = 30
BATCH = 50


async def measure(world: World, counts: Sequence[int], chunks: int, queries: int) -> list[Table]:
    note = f"Bots of {chunks:,} chunks, hash embedder; {queries} searches and lookups of the first bot, one client."
    table = Table(f"bots-{world.milvus}", f"One bot beside others, Milvus {world.milvus}", note=note)
    with world.api("hash") as url:
        connection = await Connection.open(url)
        bots: list[str] = []
        doc_id = 0
        for count in counts:
            for _ in tqdm(range(len(bots), count), desc=f"{count} bots", unit="bot", disable=None):
                bots.append(await new_bot(connection))
                last = await _fill(connection, bots[-1], len(bots), chunks)
                doc_id = doc_id or last
            search, lookup = [], []
            for number in range(queries):
                body = {"chat_bot_id": bots[0], "query_text": f"question {count} {number}", "mode": "dense"}
                search.append(await timed(connection, "POST", "/search/query", body))
                lookup.append(await timed(connection, "GET", f"/data/document/{doc_id}?chat_bot_id={bots[0]}", None))
            cells: dict[str, Any] = {"bots": str(count)}
            for name, times in (("search", search), ("lookup", lookup)):
                cells |= {f"{name}_p50_ms": median(times), f"{name}_p95_ms": percentile(times, 95)}
            table.add(**cells)
            tqdm.write(str(cells))
        connection.close()
    return [table]


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
