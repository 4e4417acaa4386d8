"""Documents a second of /data/insert/stream and of /data/insert/batch, by turns on one server.

Each document has one short chunk; the embedder is that of hashes, so that the stores and the server are measured. Four
clients each send batches of 100, or four parts. Each round loads as many documents in both ways, each into a bot of its
own, the first of the two drawn by lot. Exits 1 if a document is missing or stored twice.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator
from statistics import median

import orjson
import psutil
from tqdm import tqdm

from scripts.benchmarks.figures import Table, markdown
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import BATCH, document, new_bot, opened_world

CLIENTS = 4
PART = 5_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=20_000, help="of each way and round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--milvus", choices=("lite", "server"), default="server")


def main(options: argparse.Namespace) -> int:
    return asyncio.run(_measure(options.milvus, options.documents, options.rounds))


async def _measure(milvus: str, documents: int, rounds: int) -> int:
    speeds: dict[str, list[float]] = {"stream": [], "batch": []}
    memory: list[float] = []
    wrong = 0
    async with opened_world(milvus) as world:
        with world.api("hash") as url:
            server = _process(url)
            for number in range(rounds):
                for way in random.sample(sorted(speeds), 2):
                    seconds, stored = await _load(url, way, documents)
                    wrong += stored != documents
                    speeds[way].append(documents / seconds)
                    memory.append(server.memory_info().rss / 2**20)
                    tqdm.write(
                        f"round {number + 1} {way}: {speeds[way][-1]:.0f}/s, {stored} stored, {memory[-1]:.0f} MB"
                    )
    ratios = [one / other for one, other in zip(speeds["stream"], speeds["batch"], strict=True)]
    table = Table("stream", f"{documents} short documents in each way, {CLIENTS} clients, Milvus {milvus}")
    table.add(
        stream_documents_s=median(speeds["stream"]),
        batch_documents_s=median(speeds["batch"]),
        ratio=f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        memory_MB=f"{memory[0]:.0f} after the first load, {max(memory):.0f} at most",
    )
    command = f"scripts/bench stream --documents {documents} --rounds {rounds} --milvus {milvus}"
    sys.stdout.write(markdown(command, [table]))
    return int(wrong > 0)


async def _load(url: str, way: str, documents: int) -> tuple[float, int]:
    """Seconds, and how many documents the bot has then."""
    connections = [await Connection.open(url) for _ in range(CLIENTS)]
    bot = await new_bot(connections[0])
    size = BATCH if way == "batch" else min(PART, documents // CLIENTS)
    bodies = _batches(bot, documents, size) if way == "batch" else _parts(bot, documents, size)
    began = time.perf_counter()
    await asyncio.gather(*(_send(connection, bodies) for connection in connections))
    seconds = time.perf_counter() - began
    found = await connections[0].call("GET", f"/collection/{bot}")
    for connection in connections:
        connection.close()
    return seconds, found["document_count"]


async def _send(connection: Connection, bodies: Iterator[tuple[str, bytes]]) -> None:
    for path, body in bodies:
        status, answer = await connection.send("POST", path, body)
        assert status == 200, answer


def _text(number: int) -> str:
    return f"문서 {number}: the text of document number {number} is short."


def _batches(bot: str, documents: int, size: int) -> Iterator[tuple[str, bytes]]:
    for first in range(0, documents, size):
        items = [document(bot, f"d{number}", _text(number)) for number in range(first, min(first + size, documents))]
        yield "/data/insert/batch", orjson.dumps({"documents": items})


def _parts(bot: str, documents: int, size: int) -> Iterator[tuple[str, bytes]]:
    for first in range(0, documents, size):
        items = (document(bot, f"d{number}", _text(number)) for number in range(first, min(first + size, documents)))
        path = f"/data/insert/stream?chat_bot_id={bot}&stream_key=bench&part={first // size + 1}"
        yield path, b"".join(orjson.dumps(item) + b"\n" for item in items)


def _process(url: str) -> psutil.Process:
    port = int(url.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    raise RuntimeError("the server's process was not found")
