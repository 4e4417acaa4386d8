"""A search right after a write of the same bot, for several lengths of Milvus's time tick."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

import psutil
from tqdm import tqdm

from scripts.benchmarks.figures import Table, percentile
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import World, document, insert_paragraphs, new_bot, opened_world

REST_SECONDS = 10.0
BLOCK = 10
"""Calls of each kind after which the next kind takes its turn."""
CLIENTS, ROUNDS = 4, 3
WRITE_EVERY = 10
"""In the mixed load every so-many-th call is a write: an insert, a PUT or a DELETE in turn."""
REST_PAUSE = 1.0
"""Seconds between a block of writes and one of searches at rest, in which Milvus shows all of them."""


async def measure(ticks: Sequence[int], queries: int, processes: Sequence[int], mixed_seconds: float) -> list[Table]:
    alone = Table(
        "fresh",
        "A search right after a write, Milvus server",
        note=(
            f"964 paragraphs in one bot, hash embedder, one client. {queries} times a document is inserted and "
            f"searched for at once, as often replaced and searched for, and as many searches with nothing written, in "
            f"blocks of {BLOCK} that take turns; then {REST_SECONDS:.0f} s without any. With two processes one writes "
            f"and the other one searches. Each search must find what was written."
        ),
    )
    mixed = Table(
        "fresh-mixed",
        "Searches while the same bot is written to, Milvus server",
        note=(
            f"{CLIENTS} clients, each {WRITE_EVERY}th call an insert, a PUT or a DELETE; {ROUNDS} rounds of "
            f"{mixed_seconds:.0f} s, which take turns with the same clients only searching. Medians of the rounds."
        ),
    )
    for tick in ticks:
        for number in processes:
            async with opened_world("server", {"proxy.timeTickInterval": tick}) as world:
                with _servers(world, number) as urls:
                    load = Load(
                        [await Connection.open(urls[client % number]) for client in range(max(CLIENTS, number))]
                    )
                    await load.start()
                    await _one_client(load, alone, tick, number, queries, world.milvus_pid)
                    if mixed_seconds:
                        await _many_clients(load, mixed, tick, number, mixed_seconds)
                    for connection in load.connections:
                        connection.close()
            tqdm.write(str(alone.rows[-1]))
    return [alone, mixed] if mixed_seconds else [alone]


@contextmanager
def _servers(world: World, processes: int) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(world.api("hash")) for _ in range(processes)]


@dataclass
class Load:
    """Calls for one bot. Connection number so-and-so belongs to the process of that number, modulo their count."""

    connections: Sequence[Connection]
    bot: str = ""
    doc_ids: list[int] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    async def start(self) -> None:
        self.bot = await new_bot(self.connections[0])
        await insert_paragraphs(self.connections[0], self.bot)
        self.doc_ids = [await self.insert(0, self.text()) for _ in range(CLIENTS)]

    def text(self) -> str:
        return f"document {next(self.numbers)}"

    async def insert(self, client: int, text: str) -> int:
        answer = await self.connections[client].call("POST", "/data/insert", document(self.bot, text, text))
        doc_id: int = answer["doc_id"]
        return doc_id

    async def replace(self, client: int, doc_id: int, text: str) -> None:
        await self.connections[client].call("PUT", f"/data/document/{doc_id}", document(self.bot, text, text))

    async def delete(self, client: int, doc_id: int) -> None:
        await self.connections[client].call("DELETE", f"/data/document/{doc_id}?chat_bot_id={self.bot}")

    async def search(self, client: int, text: str) -> Any:
        return await self.connections[client].call("POST", "/search/query", _question(self.bot, text))


async def _one_client(
    load: Load, table: Table, tick: int, processes: int, queries: int, milvus_pid: int | None
) -> None:
    reader = processes - 1
    times: dict[str, list[float]] = {"insert": [], "put": [], "rest": [], "write": []}

    async def found(kind: str, text: str, doc_id: int | None) -> None:
        began = time.perf_counter()
        answer = await load.search(reader, text)
        times[kind].append(1000 * (time.perf_counter() - began))
        if doc_id is not None:
            first = answer["results"][0]
            assert (first["doc_id"], first["chunk_text"]) == (doc_id, text), answer

    for _ in tqdm(range(0, queries, BLOCK), desc=f"tick {tick} ms, {processes} processes", disable=None):
        for _ in range(BLOCK):
            text = load.text()
            began = time.perf_counter()
            doc_id = await load.insert(0, text)
            times["write"].append(1000 * (time.perf_counter() - began))
            await found("insert", text, doc_id)
        for _ in range(BLOCK):
            text = load.text()
            await load.replace(0, load.doc_ids[0], text)
            await found("put", text, load.doc_ids[0])
        await asyncio.sleep(REST_PAUSE)
        await load.search(reader, text)
        for number in range(BLOCK):
            await found("rest", f"document {number}", None)
    rest = median(times["rest"])
    table.add(
        time_tick_ms=str(tick),
        processes=str(processes),
        search_at_rest_p50_ms=rest,
        search_at_rest_p95_ms=percentile(times["rest"], 95),
        after_an_insert_p50_ms=median(times["insert"]),
        after_an_insert_p95_ms=percentile(times["insert"], 95),
        after_a_PUT_p50_ms=median(times["put"]),
        after_a_PUT_p95_ms=percentile(times["put"], 95),
        p50_to_rest=f"{median(times['insert'] + times['put']) / rest:.2f}",
        insert_p50_ms=median(times["write"]),
        **{"Milvus_at_rest,_%_of_a_core": await _idle_percent(milvus_pid)},
    )


async def _many_clients(load: Load, table: Table, tick: int, processes: int, seconds: float) -> None:
    rounds: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for _ in tqdm(range(ROUNDS), desc=f"mixed, tick {tick} ms, {processes} processes", disable=None):
        for writes in (True, False):
            times: list[float] = []
            end = time.perf_counter() + seconds
            calls = sum(await asyncio.gather(*(_client(load, number, end, writes, times) for number in range(CLIENTS))))
            rounds[writes].append((median(times), percentile(times, 95), calls / seconds))
            await asyncio.sleep(REST_PAUSE)
    (p50, p95, calls), (p50_alone, p95_alone, calls_alone) = (
        tuple(median(column) for column in zip(*rounds[writes], strict=True)) for writes in (True, False)
    )
    table.add(
        time_tick_ms=str(tick),
        processes=str(processes),
        search_p50_ms=p50,
        search_p95_ms=p95,
        searches_alone_p50_ms=p50_alone,
        searches_alone_p95_ms=p95_alone,
        p95_ratio=f"{p95 / p95_alone:.2f}",
        calls_a_second=calls,
        calls_a_second_alone=calls_alone,
    )


async def _client(load: Load, client: int, end: float, writes: bool, times: list[float]) -> int:
    """Calls until ``end``; returns how many."""
    own, last = load.doc_ids[client], None
    for number in count(1):
        text = load.text()
        if writes and number % WRITE_EVERY == 0:
            match number // WRITE_EVERY % 3:
                case 0:
                    last = await load.insert(client, text)
                case 1:
                    await load.replace(client, own, text)
                case _ if last is not None:
                    await load.delete(client, last)
                    last = None
        else:
            began = time.perf_counter()
            await load.search(client, text)
            times.append(1000 * (time.perf_counter() - began))
        if time.perf_counter() >= end:
            break
    return number


def _question(bot: str, text: str) -> dict[str, object]:
    return {"chat_bot_id": bot, "query_text": text, "limit": 5, "mode": "dense"}


async def _idle_percent(pid: int | None) -> float:
    process = psutil.Process(pid)
    before = process.cpu_times()
    await asyncio.sleep(REST_SECONDS)
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / REST_SECONDS
