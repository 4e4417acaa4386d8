"""A search through the API, compared with the same search by a bare script."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import cycle
from statistics import median
from typing import Any

from tqdm import tqdm

from scripts.benchmarks.bare import Bare, Text, opened_bare
from scripts.benchmarks.embedders import bare_embedder
from scripts.benchmarks.figures import Table, percentile, ratio
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import BATCH, World, insert_paragraphs, new_bot
from scripts.korquad import paragraphs

LIMIT = 5
STAGES = ("embedding_ms", "dense_ms", "postgres_ms", "total_ms")
Search = Callable[[int, str], Awaitable[None]]
"""Searches as the client with that number."""


async def measure(
    world: World, embedders: Sequence[str], clients: Sequence[int], rounds: int, queries: int
) -> list[Table]:
    note = (
        f"964 paragraphs in one bot, {LIMIT} results, dense mode, the two taking turns; medians of {rounds} rounds of "
        f"{queries} questions each; ratios are the API's over the bare script's, median, least and most of the rounds."
    )
    table = Table(f"search-{world.milvus}", f"Search, Milvus {world.milvus}", note=note)
    stages = Table(f"stages-{world.milvus}", f"Where a search's milliseconds go, one client, Milvus {world.milvus}")
    for embedder in embedders:
        with world.api(embedder) as url:
            async with opened_bare(world.postgres, world.milvus_uri, bare_embedder(embedder, world.stub)) as bare:
                await _compare(url, bare, embedder, clients, rounds, queries, table, stages)
    return [table, stages]


async def _compare(
    url: str, bare: Bare, embedder: str, clients: Sequence[int], rounds: int, queries: int, table: Table, stages: Table
) -> None:
    connections = [await Connection.open(url) for _ in range(max(clients))]
    bot = await new_bot(connections[0])
    await insert_paragraphs(connections[0], bot)
    items = paragraphs()
    for start in range(0, len(items), BATCH):
        await bare.insert([Text(item.title, item.text) for item in items[start : start + BATCH]])
    await asyncio.sleep(1)
    spent: dict[str, list[float]] = {}

    async def api(number: int, question: str) -> None:
        body = {"chat_bot_id": bot, "query_text": question, "limit": LIMIT, "mode": "dense"}
        began = time.perf_counter()
        answer = await connections[number].call("POST", "/search/query", body)
        assert len(answer["results"]) == LIMIT
        if len(clients_now) == 1:
            whole = 1000 * (time.perf_counter() - began)
            for stage in STAGES:
                spent.setdefault(stage, []).append(answer["timings"][stage])
            spent.setdefault("outside of the handler", []).append(whole - answer["timings"]["total_ms"])

    async def script(_: int, question: str) -> None:
        assert len(await bare.search(question, LIMIT)) == LIMIT

    questions = cycle([question for item in items for question in item.questions])
    clients_now = [0]
    for _ in range(30):
        await api(0, next(questions))
        await script(0, next(questions))
    spent.clear()
    for count in clients:
        clients_now = list(range(count))
        found: dict[str, list[list[float]]] = {"api": [], "bare": []}
        speed: dict[str, list[float]] = {"api": [], "bare": []}
        for turn in tqdm(range(rounds), desc=f"{embedder}, {count} clients", unit="round", disable=None):
            order: list[tuple[str, Search]] = [("api", api), ("bare", script)]
            asked = [next(questions) for _ in range(queries)]
            if count == 1:
                times = await _by_turns(order, asked)
                for name, _ in order:
                    found[name].append(times[name])
                    speed[name].append(1000 * len(asked) / sum(times[name]))
                continue
            for name, ask in order if turn % 2 else order[::-1]:
                began = time.perf_counter()
                found[name].append(await _at_once(ask, clients_now, asked))
                speed[name].append(len(asked) / (time.perf_counter() - began))
        cells: dict[str, Any] = {"embedder": embedder, "clients": count}
        for share in (50, 95, 99):
            of = {name: [percentile(times, share) for times in found[name]] for name in found}
            cells[f"p{share}_ms_API_/_bare"] = f"{median(of['api']):.1f} / {median(of['bare']):.1f}"
            cells[f"p{share}_ratio"] = str(ratio(of["api"], of["bare"]))
        cells["QPS_API_/_bare"] = f"{median(speed['api']):.0f} / {median(speed['bare']):.0f}"
        cells["QPS_ratio"] = str(ratio(speed["api"], speed["bare"]))
        table.add(**cells)
        tqdm.write(str(cells))
    if spent:
        stages.add(embedder=embedder, **{name: median(times) for name, times in spent.items()})
        tqdm.write(str(stages.rows[-1]))
    for connection in connections:
        connection.close()


async def _by_turns(order: Sequence[tuple[str, Search]], asked: Sequence[str]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name, _ in order}
    for turn, question in enumerate(asked):
        for name, ask in order if turn % 2 else order[::-1]:
            began = time.perf_counter()
            await ask(0, question)
            times[name].append(1000 * (time.perf_counter() - began))
    return times


async def _at_once(ask: Search, clients: Sequence[int], asked: Sequence[str]) -> list[float]:
    remaining: Iterator[str] = iter(asked)
    times: list[float] = []

    async def client(number: int) -> None:
        for question in remaining:
            began = time.perf_counter()
            await ask(number, question)
            times.append(1000 * (time.perf_counter() - began))

    await asyncio.gather(*map(client, clients))
    return times
