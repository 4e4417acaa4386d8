"""A search right after a write of the same bot, for several lengths of Milvus's time tick."""

import asyncio
import time
from collections.abc import Sequence
from statistics import median

import psutil
from tqdm import tqdm

from scripts.benchmarks.bots import timed
from scripts.benchmarks.figures import Table, percentile
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import document, insert_paragraphs, new_bot, opened_world

REST_SECONDS = 10.0


async def measure(ticks: Sequence[int], queries: int) -> list[Table]:
    note = (
        f"964 paragraphs in one bot, hash embedder, one client. {queries} times a document is inserted and searched "
        f"for at once; then as many searches with nothing written, and {REST_SECONDS:.0f} s without any."
    )
    table = Table("fresh", "A search right after a write, Milvus server", note=note)
    for tick in ticks:
        async with opened_world("server", {"proxy.timeTickInterval": tick}) as world:
            with world.api("hash") as url:
                connection = await Connection.open(url)
                bot = await new_bot(connection)
                await insert_paragraphs(connection, bot)
                inserts, fresh, rest = [], [], []
                for number in tqdm(range(queries), desc=f"time tick {tick} ms", unit="write", disable=None):
                    text = f"document {number}"
                    began = time.perf_counter()
                    doc_id = (await connection.call("POST", "/data/insert", document(bot, text, text)))["doc_id"]
                    inserts.append(1000 * (time.perf_counter() - began))
                    began = time.perf_counter()
                    answer = await connection.call("POST", "/search/query", _question(bot, text))
                    fresh.append(1000 * (time.perf_counter() - began))
                    assert answer["results"][0]["doc_id"] == doc_id, answer
                for number in range(queries):
                    body = _question(bot, f"document {number}")
                    rest.append(await timed(connection, "POST", "/search/query", body))
                connection.close()
                table.add(
                    time_tick_ms=str(tick),
                    search_after_a_write_p50_ms=median(fresh),
                    search_after_a_write_p95_ms=percentile(fresh, 95),
                    search_at_rest_p50_ms=median(rest),
                    insert_p50_ms=median(inserts),
                    **{"Milvus_at_rest,_%_of_a_core": await _idle_percent(world.milvus_pid)},
                )
        tqdm.write(str(table.rows[-1]))
    return [table]


def _question(bot: str, text: str) -> dict[str, object]:
    return {"chat_bot_id": bot, "query_text": text, "limit": 5, "mode": "dense"}


async def _idle_percent(pid: int | None) -> float:
    process = psutil.Process(pid)
    before = process.cpu_times()
    await asyncio.sleep(REST_SECONDS)
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / REST_SECONDS
