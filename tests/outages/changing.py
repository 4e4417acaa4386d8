"""One client replaces two documents continuously, another searches: each answer must contain both documents.

On a Milvus server: ``python -m tests.outages.changing --seconds 60 --processes 2``.
"""

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests.conftest import BotClient, register
from tests.milvus_server import MilvusServer
from tests.outages.conftest import served

REPLACED, UNCHANGED = 2, 30
PAUSE = 0.025
"""Seconds between two replacements."""


@dataclass
class Seen:
    """What the searches returned. ``missing``: answers without one of the documents. ``refused``: statuses but 200."""

    seconds: list[float] = field(default_factory=list)
    missing: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    rounds: Counter[int] = field(default_factory=Counter)
    replacements: int = 0

    def __str__(self) -> str:
        ms = sorted(1000 * seconds for seconds in self.seconds)
        times = f"p50 {statistics.median(ms):.0f}, p95 {ms[int(len(ms) * 0.95)]:.0f}, max {ms[-1]:.0f} ms"
        return (
            f"{len(ms)} searches during {self.replacements} replacements: {self.missing} without a document, "
            f"refused {dict(self.refused)}, {times}, by rounds {dict(sorted(self.rounds.items()))}"
        )


async def measure(servers: Sequence[httpx.AsyncClient], seconds: float) -> Seen:
    """Replaces through the first server and searches through the last."""
    bot = await register(servers[0])
    for number in range(UNCHANGED):
        await bot.insert(f"unchanged {number}")
    doc_ids = [await bot.insert(f"replaced {number} version 0") for number in range(REPLACED)]
    reader = BotClient(servers[-1], bot.bot_id)
    seen, end = Seen(), time.monotonic() + seconds

    async def replace() -> None:
        while time.monotonic() < end:
            seen.replacements += 1
            for number, doc_id in enumerate(doc_ids):
                body = bot.body(f"replaced {number} version {seen.replacements}")
                assert (await bot.http.put(f"/data/document/{doc_id}", json=body)).status_code == 200
            await asyncio.sleep(PAUSE)

    async def search() -> None:
        body = {"chat_bot_id": str(bot.bot_id), "query_text": "replaced", "limit": 2000}
        while time.monotonic() < end:
            began = time.monotonic()
            answer = await reader.http.post("/search/query", json=body)
            seen.seconds.append(time.monotonic() - began)
            if answer.status_code != 200:
                seen.refused[answer.status_code] += 1
                continue
            seen.rounds[answer.json()["timings"]["search_rounds"]] += 1
            found = Counter(result["doc_id"] for result in answer.json()["results"])
            seen.missing += any(found[doc_id] != 1 for doc_id in doc_ids) or len(found) != UNCHANGED + REPLACED

    await asyncio.gather(replace(), search())
    return seen


async def run(seconds: float, processes: int) -> Seen:
    """Starts a Milvus server and server processes, and measures on them."""
    async with AsyncExitStack() as stack:
        name = stack.enter_context(TemporaryDirectory(prefix="chat-memory-outage-"))
        os.chmod(name, 0o755)
        milvus = stack.enter_context(MilvusServer(Path(name) / "milvus"))
        environment = os.environ | {"DATA_DIR": f"{name}/data", "MILVUS_URI": milvus.uri, "LOG_LEVEL": "WARNING"}
        servers = [(await stack.enter_async_context(served(environment)))[0] for _ in range(processes)]
        return await measure(servers, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    arguments = parser.parse_args()
    sys.stdout.write(f"{asyncio.run(run(arguments.seconds, arguments.processes))}\n")
