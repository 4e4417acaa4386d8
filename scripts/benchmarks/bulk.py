"""A bot's searches while another bot is bulk-loaded, beside the same searches when all is quiet."""

import asyncio
from collections.abc import Sequence
from itertools import cycle
from statistics import median
from typing import Any

from tqdm import tqdm

from scripts.benchmarks.bots import timed
from scripts.benchmarks.figures import Table, percentile, ratio
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import BATCH, World, document, insert_paragraphs, new_bot
from scripts.demo_korquad import paragraphs


async def measure(world: World, embedders: Sequence[str], rounds: int, queries: int) -> list[Table]:
    note = (
        f"{queries} searches of a bot with 964 paragraphs, one client, in each of {rounds} rounds: quiet, then while "
        f"another client sends another bot batches of {BATCH} paragraphs without a pause. Medians of the rounds; the "
        "ratio is of p95, median, least and most."
    )
    table = Table(f"bulk-{world.milvus}", f"Searches while another bot is loaded, Milvus {world.milvus}", note=note)
    for embedder in embedders:
        with world.api(embedder) as url:
            table.add(embedder=embedder, **await _compare(url, embedder, rounds, queries))
        tqdm.write(str(table.rows[-1]))
    return [table]


async def _compare(url: str, embedder: str, rounds: int, queries: int) -> dict[str, Any]:
    searching, loading = await Connection.open(url), await Connection.open(url)
    bot, other = await new_bot(searching), await new_bot(loading)
    await insert_paragraphs(searching, bot)
    await asyncio.sleep(1)
    questions = cycle([question for item in paragraphs() for question in item.questions])
    quiet: list[list[float]] = []
    loaded: list[list[float]] = []
    for _ in tqdm(range(rounds), desc=embedder, unit="round", disable=None):
        quiet.append(await _searches(searching, bot, questions, queries))
        bulk = asyncio.create_task(_load_on(loading, other))
        loaded.append(await _searches(searching, bot, questions, queries))
        bulk.cancel()
        await asyncio.wait([bulk])
        loading.close()
        loading = await Connection.open(url)
        await asyncio.sleep(1)
    p95 = {name: [percentile(times, 95) for times in of] for name, of in (("quiet", quiet), ("loaded", loaded))}
    return {
        "p50_ms_quiet_/_loaded": f"{median(map(median, quiet)):.1f} / {median(map(median, loaded)):.1f}",
        "p95_ms_quiet_/_loaded": f"{median(p95['quiet']):.1f} / {median(p95['loaded']):.1f}",
        "p95_ratio": str(ratio(p95["loaded"], p95["quiet"])),
    }


async def _searches(connection: Connection, bot: str, questions: Any, queries: int) -> list[float]:
    times = []
    for _ in range(queries):
        body = {"chat_bot_id": bot, "query_text": next(questions), "limit": 5, "mode": "dense"}
        times.append(await timed(connection, "POST", "/search/query", body))
    return times


async def _load_on(connection: Connection, bot: str) -> None:
    for start in cycle(range(0, len(paragraphs()) - BATCH, BATCH)):
        part = [document(bot, item.title, item.text) for item in paragraphs()[start : start + BATCH]]
        await connection.call("POST", "/data/insert/batch", {"documents": part})
