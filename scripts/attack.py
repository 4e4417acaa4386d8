"""Attacks a server on embedded stores and measures what the searches of another account notice.

Idle and attacked rounds take turns, and the median of their ratios counts. Exits 1 when an attack gets an unexpected
status, a search fails, the server's process takes 1,024 MB or more, or the p95 of the searches at least doubles.
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import psutil
from tqdm import tqdm

from scripts.attacker import ATTACKS
from scripts.benchmarks.figures import Table, markdown, percentile, save
from scripts.benchmarks.http import Connection
from scripts.benchmarks.memory import Memory
from scripts.benchmarks.world import insert_paragraphs, new_bot
from scripts.korquad import paragraphs
from scripts.own_server import ROOT, own_folder, own_key, served_in
from scripts.slow_reranker import slow_reranker

BOUND_MB = 1024
BOUND_RATIO = 2.0
PAUSE = 0.02
"""Seconds between two searches of the other client, which keeps it under its own rate."""
SETTLE = 1.0
LONG_CHUNKS = 1_000
LONG_CHARS = 480
RATED = {"RATE_LIMIT": "50/second", "MAX_CONCURRENT_WRITES": "8"}
"""Settings for a server with accounts that are not trusted."""
RERANKED = {"RERANK_API": "tei"}
"""RERANK_URL is that of a stub, which takes SECONDS_A_PAIR for each text."""
MANY = {"MAX_CONNECTIONS": "12000"}
"""Settings that allow all connections of the attack ``idle``."""


@dataclass(frozen=True, slots=True)
class Plan:
    attack: str
    description: str
    allowed: frozenset[str]
    """The statuses that may come back."""
    required: str
    """The status that must come back at least once."""
    seconds: float = 0.0
    """The least duration: the server's deadline has to pass."""
    settings: tuple[tuple[str, str], ...] = ()


def _plan(attack: str, description: str, required: str, also: str = "", **more: Any) -> Plan:
    return Plan(attack, description, frozenset([required, *also.split()]), required, **more)


PLANS = [
    _plan("body-length", "1 GB bodies with their length", "413", "closed"),
    _plan("body-chunked", "1 GB bodies in chunks, without it", "413", "503 closed"),
    _plan("gzip-bomb", "1 GB of blanks as gzip", "415"),
    _plan("large-bodies", "bodies of 32 MB that never end", "503", "408 closed"),
    _plan("slow-heads", "200 heads, a byte a second", "408", seconds=14),
    _plan("slow-bodies", "200 bodies, a byte a second", "408", seconds=14),
    _plan("idle", "10,000 connections, 2,000 allowed", "closed", "200", seconds=36),
    _plan("rate", "an account above 50 requests a second", "429", "200", settings=tuple(RATED.items())),
    _plan("writes", "an account with 100 writes at a time, 8 allowed", "429", "201", settings=tuple(RATED.items())),
    _plan("rerank", "10,000 results, reranked, 16 at a time", "200", "503", settings=tuple(RERANKED.items())),
    _plan("context", "243 results with 20 chunks around each, 16 at a time", "200", "503"),
    _plan("idle", "10,000 connections, all allowed", "200", settings=tuple(MANY.items()), seconds=36),
]


@dataclass
class Round:
    """The other client's searches in one phase: their durations and the statuses of those that failed."""

    milliseconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def p95(self) -> float:
        return percentile(self.milliseconds, 95)


class Client:
    """Searches on one connection, a new question each time."""

    def __init__(self, connection: Connection, bot: str, questions: Iterator[str]) -> None:
        self._connection, self._bot, self._questions = connection, bot, questions

    async def search(self, seconds: float) -> Round:
        found = Round()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            body = orjson.dumps({"chat_bot_id": self._bot, "query_text": next(self._questions)})
            began = time.perf_counter()
            try:
                status, _ = await self._connection.send("POST", "/search/query", body)
            except OSError:
                status = 0
            found.milliseconds.append(1000 * (time.perf_counter() - began))
            if status != 200:
                found.failed[str(status or "closed")] += 1
            await asyncio.sleep(PAUSE)
        return found


def main() -> int:
    options = _options()
    table = Table("attacks", "What an attack costs others", note=_note(options))
    plans = [plan for plan in PLANS if not options.only or plan.attack in options.only]
    misses: list[str] = []
    with tqdm(total=len(plans) * options.rounds, desc="attack", unit="round", disable=None) as progress:
        for settings, group in itertools.groupby(plans, key=lambda plan: plan.settings):
            for row, missed in asyncio.run(_attacked(list(group), dict(settings), options, progress)):
                table.add(**row)
                misses += missed
    command = "scripts/attack " + " ".join(sys.argv[1:])
    print(markdown(command.strip(), [table]))
    print(*(misses or ["every limit was kept"]), sep="\n")
    if options.json:
        save(options.json, command.strip(), [table])
    return 1 if misses else 0


async def _attacked(
    plans: Sequence[Plan], settings: dict[str, str], options: argparse.Namespace, progress: "tqdm[Any]"
) -> list[tuple[dict[str, Any], list[str]]]:
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        if settings == RERANKED:
            settings = settings | {"RERANK_URL": stack.enter_context(slow_reranker())}
        keys = [own_key(folder, account, "write") for account in ("attacker", "other")]
        server = stack.enter_context(served_in(folder, AUTH_DISABLED="false", **settings))
        memory = Memory(psutil.Process(server.pid), folder)
        attacker, other = [await Connection.open(server.address, key) for key in keys]
        bots = [await new_bot(connection) for connection in (attacker, other)]
        for connection, bot in zip((attacker, other), bots, strict=True):
            await insert_paragraphs(connection, bot, options.documents)
        await _insert_long_document(attacker, bots[0])
        attacker.close()
        texts = [question for item in paragraphs()[: options.documents] for question in item.questions]
        client = Client(other, bots[1], itertools.cycle(texts))
        await client.search(SETTLE)
        rows = []
        for plan in plans:
            command = [sys.executable, "-m", "scripts.attacker", plan.attack, server.address, keys[0], bots[0]]
            rows.append(await _measure(plan, command, client, memory, options, progress))
        other.close()
        return rows


async def _insert_long_document(connection: Connection, bot: str) -> None:
    """Inserts a document of LONG_CHUNKS chunks, as long as an answer with the most chunks can hold."""
    words = " ".join(item.text for item in paragraphs())
    chunks = [{"chunk_index": n, "text": words[n * LONG_CHARS :][:LONG_CHARS] or "끝"} for n in range(LONG_CHUNKS)]
    body = {"document": {"chat_bot_id": bot, "title": "long"}, "chunks": chunks}
    await connection.call("POST", "/data/insert", body)


async def _measure(
    plan: Plan, command: Sequence[str], client: Client, memory: Memory, options: argparse.Namespace, progress: Any
) -> tuple[dict[str, Any], list[str]]:
    before, during, seen = [], [], Counter[str]()
    with memory.watched():
        for _ in range(options.rounds):
            before.append(await client.search(options.seconds))
            attack = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert attack.stdout is not None
            await attack.stdout.readline()
            during.append(await client.search(max(options.seconds, plan.seconds)))
            output, _ = await attack.communicate(b"")  # Without b"" standard input stays open.
            seen.update(json.loads(output.splitlines()[-1])["seen"])
            await asyncio.sleep(SETTLE)
            progress.update()
    ratios = [attacked.p95 / idle.p95 for idle, attacked in zip(before, during, strict=True)]
    failed = sum((attacked.failed for attacked in (*before, *during)), Counter[str]())
    row = {
        "attack": plan.description,
        "answers": ", ".join(f"{count:,} x {status}" for status, count in sorted(seen.items())),
        "p50_idle_ms": median(percentile(one.milliseconds, 50) for one in before),
        "p50_attacked_ms": median(percentile(one.milliseconds, 50) for one in during),
        "p95_idle_ms": median(one.p95 for one in before),
        "p95_attacked_ms": median(one.p95 for one in during),
        "ratio": f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        "server_MB": memory.most,
        "with_stores_MB": memory.most_of_all,
    }
    tqdm.write(str(row))
    misses = []
    if not seen[plan.required] or not plan.allowed.issuperset(seen):
        misses.append(f"answers should be {' or '.join(sorted(plan.allowed))}, with {plan.required}: {dict(seen)}")
    if failed:
        misses.append(f"searches of the other client failed: {dict(failed)}")
    if memory.most >= BOUND_MB:
        misses.append(f"the server took {memory.most:.0f} MB")
    if median(ratios) >= BOUND_RATIO:
        misses.append(f"the other client's p95 went up {median(ratios):.2f} times")
    return row, [f"{plan.description}: {miss}" for miss in misses]


def _note(options: argparse.Namespace) -> str:
    return (
        f"{options.rounds} rounds of {options.seconds:g} s idle and attacked in turn, two bots of {options.documents} "
        "paragraphs; medians, with the least and the greatest ratio in brackets. Memory is the greatest of all rounds."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/attack", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each attack")
    parser.add_argument("--seconds", type=float, default=8, help="idle and attacked, in each round")
    parser.add_argument("--documents", type=int, default=300, help="of each bot")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), help="only these attacks")
    parser.add_argument("--json", type=Path, help="also write the table to this file, and as Markdown next to it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
