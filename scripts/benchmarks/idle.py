"""Few bots in use beside many that are not, with MAX_LOADED_COLLECTIONS.

On a Milvus server: searches of the bots in use, alone and while others that were released are searched now and then;
how long the first answer of such a bot takes; errors; and the CPU time of Milvus without searches, with the bound
and with all bots loaded. Exits 1 if a client saw an error. The default size takes about ten minutes.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from random import Random
from statistics import median

import orjson
import uvloop
from pymilvus import MilvusClient
from tqdm import tqdm

from scripts.benchmarks.figures import Table, markdown, percentile
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import World, new_bot, opened_world

CLIENTS, PAUSE_SECONDS = 4, 0.2
"""Of the bots in use: each sends a search, waits for the answer and for the rest of the pause."""
DOCUMENT_CHUNKS = 25
BURST, BURST_EVERY = 5, 8
"""Every so many cold starts, several are begun at once."""
REST_SECONDS = 15.0
SETTLE_SECONDS = 120.0
"""Most seconds until no more than the bound are loaded: those used last are released after 30 s, one a second."""
CPU_SECONDS = 30.0
LOADERS = 10


@dataclass
class Answers:
    """Milliseconds of the answers, and what was answered otherwise than with 200 and a result."""

    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def search(self, connection: Connection, bot: str) -> None:
        body = orjson.dumps({"chat_bot_id": bot, "query_text": f"text of {bot} number 1", "mode": "dense"})
        began = time.perf_counter()
        status, content = await connection.send("POST", "/search/query", body)
        self.times.append(1000 * (time.perf_counter() - began))
        if status != 200 or not orjson.loads(content)["results"]:
            self.errors.append(f"{status} {content[:300]!r}")

    def row(self) -> dict[str, object]:
        return {
            "answers": str(len(self.times)),
            "p50_ms": median(self.times),
            "p95_ms": percentile(self.times, 95),
            "p99_ms": percentile(self.times, 99),
            "errors": str(len(self.errors)),
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bots", type=int, default=120, help="registered (default: %(default)s)")
    parser.add_argument("--active", type=int, default=20, help="of them in use (default: %(default)s)")
    parser.add_argument("--bound", type=int, default=40, help="MAX_LOADED_COLLECTIONS (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=200, help="of each bot (default: %(default)s)")
    parser.add_argument("--alone", type=float, default=60, help="seconds without cold starts (default: %(default)s)")
    parser.add_argument("--cold", type=int, default=60, help="cold starts (default: %(default)s)")
    parser.add_argument("--every", type=float, default=3, help="seconds between two of them (default: %(default)s)")
    parser.add_argument(
        "--unflushed", action="store_true", help="as just written: Milvus flushes by itself within ten minutes"
    )
    parser.add_argument("--loaded", type=int, help="bots that are loaded at last, to compare (default: all)")


def main(options: argparse.Namespace) -> int:
    return uvloop.run(_measure(options))


async def _measure(options: argparse.Namespace) -> int:
    note = (
        f"{options.bots} bots of {options.chunks} chunks, {options.bound} may be loaded. {options.active} are in use, "
        f"by {CLIENTS} clients that search every {PAUSE_SECONDS:g} s."
    )
    searches = Table("idle-searches", "Searches of bots in use, and first searches of released ones", note=note)
    cpu = Table("idle-cpu", "CPU time of Milvus without searches", note="In shares of a core.")
    failed: list[str] = []
    async with opened_world("server") as world:
        with world.api("hash", MAX_LOADED_COLLECTIONS=str(options.bound)) as url:
            main_connection = await Connection.open(url)
            active = await _filled(main_connection, options.active, options.chunks)
            alone = await _in_use(url, active, options.alone)
            idle = await _filled(main_connection, options.bots - options.active, options.chunks)
            if not options.unflushed:
                await asyncio.to_thread(_flush, world)
            cold = Answers()
            beside = await _in_use(url, active, None, _cold_starts(url, idle, cold, options))
            for name, answers in (("in use, alone", alone), ("in use, beside cold starts", beside), ("cold", cold)):
                searches.add(searches=name, **answers.row())
                failed += answers.errors
            await _settled(world, options.bound)
            cpu.add(loaded=str(await asyncio.to_thread(_loaded, world)), cores=await _cpu(world))
        await asyncio.to_thread(_load_more, world, options.loaded or options.bots)
        await asyncio.sleep(REST_SECONDS)
        cpu.add(loaded=str(await asyncio.to_thread(_loaded, world)), cores=await _cpu(world))
    command = (
        f"scripts/bench idle --bots {options.bots} --active {options.active} --bound {options.bound} "
        f"--chunks {options.chunks} --cold {options.cold}{' --unflushed' if options.unflushed else ''}"
    )
    print(markdown(command, [searches, cpu]))
    for line in failed[:10]:
        print(line)
    return 1 if failed else 0


async def _filled(connection: Connection, count: int, chunks: int) -> list[str]:
    bots = []
    for _ in tqdm(range(count), desc="bots", unit="bot", disable=None):
        bots.append(bot := await new_bot(connection))
        documents = [
            {
                "document": {"chat_bot_id": bot, "title": f"document {first}"},
                "chunks": [
                    {"chunk_index": number, "text": f"text of {bot} number {first + number}"}
                    for number in range(min(DOCUMENT_CHUNKS, chunks - first))
                ],
            }
            for first in range(0, chunks, DOCUMENT_CHUNKS)
        ]
        answer = await connection.call("POST", "/data/insert/batch", {"documents": documents})
        assert answer["failure_count"] == 0, answer
    return bots


async def _in_use(
    url: str, bots: Sequence[str], seconds: float | None, others: "asyncio.Future[None] | None" = None
) -> Answers:
    """Searches of the bots for some seconds, or until the others are done. They are loaded before."""
    connections = [await Connection.open(url) for _ in range(CLIENTS)]
    before = Answers()
    for bot in bots:
        await before.search(connections[0], bot)
    assert not before.errors, before.errors[0]
    await asyncio.sleep(REST_SECONDS)
    answers, ended = Answers(), asyncio.Event()

    async def client(number: int) -> None:
        turn = number
        while not ended.is_set():
            due = time.perf_counter() + PAUSE_SECONDS
            await answers.search(connections[number], bots[turn % len(bots)])
            turn += CLIENTS + 1
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def clock() -> None:
        await (others if others is not None else asyncio.sleep(seconds or 0))
        ended.set()

    await asyncio.gather(clock(), *(client(number) for number in range(CLIENTS)))
    for connection in connections:
        connection.close()
    return answers


async def _cold_starts(url: str, bots: Sequence[str], answers: Answers, options: argparse.Namespace) -> None:
    """Each bot in turn, so that it is released long before it is searched again."""
    order = Random(1).sample(bots, len(bots))
    connections = [await Connection.open(url) for _ in range(BURST)]
    with tqdm(total=options.cold, desc="cold starts", disable=None) as bar:
        step = done = 0
        while done < options.cold:
            due = time.perf_counter() + options.every
            step += 1
            count = min(BURST if step % BURST_EVERY == 0 else 1, options.cold - done)
            chosen = [order[(done + number) % len(order)] for number in range(count)]
            await asyncio.gather(*map(answers.search, connections, chosen))
            done += count
            bar.update(count)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    for connection in connections:
        connection.close()


async def _settled(world: World, bound: int) -> None:
    async with asyncio.timeout(SETTLE_SECONDS):
        while await asyncio.to_thread(_loaded, world) > bound:
            await asyncio.sleep(2)
    await asyncio.sleep(REST_SECONDS)


@contextmanager
def _milvus(world: World) -> Iterator[MilvusClient]:
    with closing(MilvusClient(world.milvus_uri, timeout=60, dedicated=True)) as client:
        yield client


def _names(client: MilvusClient) -> list[str]:
    return sorted(name for name in client.list_collections() if name.startswith("bench_"))


def _loaded(world: World) -> int:
    with _milvus(world) as client:
        return sum(client.get_load_state(name)["state"].name == "Loaded" for name in _names(client))


def _flush(world: World) -> None:
    with _milvus(world) as client, ThreadPoolExecutor(LOADERS) as pool:
        list(pool.map(lambda name: client.flush(name, timeout=120), _names(client)))


def _load_more(world: World, count: int) -> None:
    """Loads bots until ``count`` are, several at once; no server runs that would release them."""
    with _milvus(world) as client, ThreadPoolExecutor(LOADERS) as pool:
        list(pool.map(client.load_collection, _names(client)[:count]))


async def _cpu(world: World) -> float:
    """The share of a core that Milvus uses."""
    before = _ticks(world)
    await asyncio.sleep(CPU_SECONDS)
    return (_ticks(world) - before) / os.sysconf("SC_CLK_TCK") / CPU_SECONDS


def _ticks(world: World) -> int:
    with open(f"/proc/{world.milvus_pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
