"""A bot's searches while another bot is bulk-loaded, compared with the same searches on an idle server."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from statistics import median
from typing import Any

from tqdm import tqdm

from scripts.benchmarks.bare import Bare, Text, opened_bare
from scripts.benchmarks.bots import timed
from scripts.benchmarks.embedders import bare_embedder
from scripts.benchmarks.figures import Table, percentile, ratio
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import BATCH, World, document, insert_paragraphs, new_bot
from scripts.korquad import paragraphs

Times = dict[str, list[float]]
"""Milliseconds of each search: the API's and the bare script's."""


async def measure(world: World, embedders: Sequence[str], rounds: int, queries: int) -> list[Table]:
    note = (
        f"{queries} searches of a bot with 964 paragraphs, one client, in each of {rounds} rounds: quiet, then while "
        f"another client sends the API another bot's batches of {BATCH} paragraphs without a pause. Every other search "
        "is the bare script's, of a collection of its own. Medians of the rounds; a ratio is of p95 loaded over quiet, "
        "median, least and most."
    )
    table = Table(f"bulk-{world.milvus}", f"Searches while another bot is loaded, Milvus {world.milvus}", note=note)
    for embedder in embedders:
        with world.api(embedder) as url:
            async with opened_bare(world.postgres, world.milvus_uri, bare_embedder(embedder, world.stub)) as bare:
                table.add(embedder=embedder, **await _compare(url, bare, embedder, rounds, queries))
        tqdm.write(str(table.rows[-1]))
    return [table]


async def _compare(url: str, bare: Bare, embedder: str, rounds: int, queries: int) -> dict[str, Any]:
    searching, loading = await Connection.open(url), await Connection.open(url)
    bot, other = await new_bot(searching), await new_bot(loading)
    await insert_paragraphs(searching, bot)
    items = paragraphs()
    for start in range(0, len(items), BATCH):
        await bare.insert([Text(item.title, item.text) for item in items[start : start + BATCH]])
    await asyncio.sleep(1)
    questions = cycle([question for item in items for question in item.questions])
    quiet: list[Times] = []
    loaded: list[Times] = []
    speeds: list[float] = []
    for _ in tqdm(range(rounds), desc=embedder, unit="round", disable=None):
        quiet.append(await _searches(searching, bare, bot, questions, queries))
        batches: list[int] = []
        bulk = asyncio.create_task(_load_on(loading, other, batches))
        began = time.perf_counter()
        loaded.append(await _searches(searching, bare, bot, questions, queries))
        speeds.append(sum(batches) / (time.perf_counter() - began))
        bulk.cancel()
        await asyncio.wait([bulk])
        loading.close()
        loading = await Connection.open(url)
        await asyncio.sleep(1)
    cells: dict[str, Any] = {}
    for name, title in (("api", "API"), ("bare", "bare")):
        p50 = [median(median(times[name]) for times in of) for of in (quiet, loaded)]
        p95 = [[percentile(times[name], 95) for times in of] for of in (quiet, loaded)]
        cells[f"{title}_p50_ms_quiet_/_loaded"] = f"{p50[0]:.1f} / {p50[1]:.1f}"
        cells[f"{title}_p95_ms_quiet_/_loaded"] = f"{median(p95[0]):.1f} / {median(p95[1]):.1f}"
        cells[f"{title}_p95_ratio"] = str(ratio(p95[1], p95[0]))
    cells["documents/s_loaded"] = median(speeds)
    return cells


async def _searches(connection: Connection, bare: Bare, bot: str, questions: Iterator[str], queries: int) -> Times:
    times: Times = {"api": [], "bare": []}
    for _ in range(queries):
        body = {"chat_bot_id": bot, "query_text": next(questions), "limit": 5, "mode": "dense"}
        times["api"].append(await timed(connection, "POST", "/search/query", body))
        began = time.perf_counter()
        await bare.search(next(questions), 5)
        times["bare"].append(1000 * (time.perf_counter() - began))
    return times


async def _load_on(connection: Connection, bot: str, batches: list[int]) -> None:
    """Loads batches until it is cancelled; appends the size of each stored batch to ``batches``."""
    documents = [document(bot, item.title, item.text) for item in paragraphs()]
    for start in cycle(range(0, len(documents) - BATCH, BATCH)):
        await connection.call("POST", "/data/insert/batch", {"documents": documents[start : start + BATCH]})
        batches.append(BATCH)
