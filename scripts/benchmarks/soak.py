"""Whether memory, file descriptors, connections or latency grow during 30 minutes of mixed load."""

import asyncio
import random
import time
from statistics import median

import asyncpg
import psutil
from tqdm import tqdm

from scripts.benchmarks.figures import Table, percentile
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import World, document, new_bot
from scripts.korquad import paragraphs

CLIENTS = 4


async def measure(world: World, minutes: float) -> list[Table]:
    """A table with a row for each tenth of the time."""
    note = (
        f"{minutes:g} minutes, {CLIENTS} clients, hash embedder; the server's process alone. Warm-up is the first row."
    )
    table = Table(f"soak-{world.milvus}", f"Mixed load, Milvus {world.milvus}", note=note)
    with world.api("hash") as url:
        port = url.rpartition(":")[2]
        (process,) = (one for one in psutil.process_iter(["cmdline"]) if port in (one.info["cmdline"] or ()))
        connections = [await Connection.open(url) for _ in range(CLIENTS)]
        bot = await new_bot(connections[0])
        texts = [item.text for item in paragraphs()]
        times: list[float] = []
        calls = 0
        end = time.monotonic() + minutes * 60

        async def client(connection: Connection, seed: int) -> None:
            nonlocal calls
            chance = random.Random(seed)
            known: list[int] = []
            while time.monotonic() < end:
                dice = chance.random()
                if dice < 0.7:
                    body = {"chat_bot_id": bot, "query_text": chance.choice(texts)[:80], "mode": "dense"}
                    began = time.perf_counter()
                    await connection.call("POST", "/search/query", body)
                    times.append(1000 * (time.perf_counter() - began))
                elif dice < 0.8 or len(known) < 50:
                    answer = await connection.call("POST", "/data/insert", document(bot, "t", chance.choice(texts)))
                    known.append(answer["doc_id"])
                elif dice < 0.9:
                    await connection.call("GET", f"/data/document/{chance.choice(known)}?chat_bot_id={bot}")
                else:
                    gone = known.pop(chance.randrange(len(known)))
                    await connection.call("DELETE", f"/data/document/{gone}?chat_bot_id={bot}")
                calls += 1

        async def watch() -> None:
            nonlocal calls
            step = minutes * 60 / 10
            for number in tqdm(range(10), desc="soak", unit="tenth", disable=None):
                await asyncio.sleep(step)
                table.add(
                    minute=f"{(number + 1) * step / 60:.1f}",
                    calls=str(calls),
                    search_p50_ms=median(times),
                    search_p95_ms=percentile(times, 95),
                    memory_MB=process.memory_info().rss / 2**20,
                    descriptors=str(process.num_fds()),
                    PostgreSQL_connections=str(await _connections(world)),
                )
                times.clear()
                calls = 0

        await asyncio.gather(watch(), *(client(one, seed) for seed, one in enumerate(connections)))
        for one in connections:
            one.close()
    return [table]


async def _connections(world: World) -> int:
    at = world.postgres
    conn = await asyncpg.connect(host=at.host, port=at.port, user=at.user, database=at.database)
    found: int = await conn.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'chat-memory'")
    await conn.close()
    return found
