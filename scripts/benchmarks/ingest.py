"""Inserts through the API, compared with the same inserts by a bare script."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from typing import Any

from tqdm import tqdm

from scripts.benchmarks.bare import Bare, Text, opened_bare
from scripts.benchmarks.embedders import bare_embedder
from scripts.benchmarks.figures import Table, ratio
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import BATCH, World, document, new_bot
from scripts.korquad import paragraphs

AT_ONCE = 8
STAGES = ("embedding_time_ms", "postgres_insert_time_ms", "milvus_insert_time_ms", "total_time_ms")
Insert = Callable[[int, Sequence[Text]], Awaitable[None]]


async def measure(world: World, embedders: Sequence[str], rounds: int, singles: int) -> list[Table]:
    note = (
        f"964 paragraphs as documents of one chunk in batches of {BATCH}, {singles} of them one by one; documents/s, "
        f"the two taking turns; medians of {rounds} rounds after one that does not count; ratios are the API's over "
        "the bare script's, their median, least and most."
    )
    table = Table(f"ingest-{world.milvus}", f"Ingest, Milvus {world.milvus}", note=note)
    gain = Table(f"gain-{world.milvus}", f"A batch of {BATCH} against {BATCH} calls, Milvus {world.milvus}")
    stages = Table(f"ingest-stages-{world.milvus}", f"Where a batch's milliseconds go, Milvus {world.milvus}")
    for embedder in embedders:
        with world.api(embedder) as url:
            async with opened_bare(world.postgres, world.milvus_uri, bare_embedder(embedder, world.stub)) as bare:
                speeds = await _compare(url, bare, embedder, rounds, singles, table, stages)
        gain.add(embedder=embedder, **{"times_the_documents/s": str(ratio(speeds["batch"], speeds["single"]))})
        tqdm.write(str(gain.rows[-1]))
    return [table, gain, stages]


async def _compare(
    url: str, bare: Bare, embedder: str, rounds: int, singles: int, table: Table, stages: Table
) -> dict[str, list[float]]:
    connections = [await Connection.open(url) for _ in range(AT_ONCE)]
    bot = await new_bot(connections[0])
    spent: dict[str, list[float]] = {}

    async def api_batch(number: int, texts: Sequence[Text]) -> None:
        body = {"documents": [document(bot, one.title, one.text) for one in texts]}
        began = time.perf_counter()
        answer = await connections[number].call("POST", "/data/insert/batch", body)
        whole = 1000 * (time.perf_counter() - began)
        assert answer["success_count"] == len(texts), answer
        for stage in STAGES:
            spent.setdefault(stage.replace("_time", ""), []).append(answer[stage])
        spent.setdefault("outside of the handler", []).append(whole - answer["total_time_ms"])

    async def api_single(number: int, texts: Sequence[Text]) -> None:
        await connections[number].call("POST", "/data/insert", document(bot, texts[0].title, texts[0].text))

    async def script(_: int, texts: Sequence[Text]) -> None:
        await bare.insert(texts)

    texts = [Text(item.title, item.text) for item in paragraphs()]
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    ones = [[text] for text in texts[:singles]]
    ways: list[tuple[str, Sequence[Sequence[Text]], Insert, int]] = [
        ("batch", batches, api_batch, 1),
        ("single", ones, api_single, 1),
        (f"single, {AT_ONCE} at once", ones, api_single, AT_ONCE),
    ]
    speeds: dict[str, list[float]] = {}
    await _by_turns([("api", api_batch), ("bare", script)], batches)
    spent.clear()
    for way, parts, api, clients in ways:
        found: dict[str, list[float]] = {"api": [], "bare": []}
        for turn in tqdm(range(rounds), desc=f"{embedder}, {way}", unit="round", disable=None):
            both: list[tuple[str, Insert]] = [("api", api), ("bare", script)]
            order = both if turn % 2 else both[::-1]
            taken = await (_by_turns(order, parts) if clients == 1 else _at_once(order, parts, clients))
            for name, seconds in taken.items():
                found[name].append(sum(map(len, parts)) / seconds)
        cells: dict[str, Any] = {"embedder": embedder, "way": way}
        cells |= {"API_documents/s": median(found["api"]), "bare_documents/s": median(found["bare"])}
        table.add(**cells, ratio=str(ratio(found["api"], found["bare"])))
        speeds[way] = found["api"]
        tqdm.write(str(table.rows[-1]))
    stages.add(embedder=embedder, **{name: median(times) for name, times in spent.items()})
    tqdm.write(str(stages.rows[-1]))
    for connection in connections:
        connection.close()
    return speeds


async def _by_turns(order: Sequence[tuple[str, Insert]], parts: Sequence[Sequence[Text]]) -> dict[str, float]:
    taken = dict.fromkeys((name for name, _ in order), 0.0)
    for part in parts:
        for name, insert in order:
            began = time.perf_counter()
            await insert(0, part)
            taken[name] += time.perf_counter() - began
    return taken


async def _at_once(
    order: Sequence[tuple[str, Insert]], parts: Sequence[Sequence[Text]], clients: int
) -> dict[str, float]:
    taken: dict[str, float] = {}
    for name, insert in order:
        remaining = iter(parts)

        async def client(number: int, insert: Insert = insert, remaining: Any = remaining) -> None:
            for part in remaining:
                await insert(number, part)

        began = time.perf_counter()
        await asyncio.gather(*map(client, range(clients)))
        taken[name] = time.perf_counter() - began
    return taken
