"""The same question to two versions of the server that take turns: is this one as fast as the other?

Blocks of calls come in pairs, one block a version. With one client the two take turns call by call within a pair, the
first of each two drawn by lot, so that whatever goes on on the machine slows both. A pair gives a ratio; several starts
of both servers, with some pairs each, give an interval.
"""

import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from tqdm import tqdm

from scripts.benchmarks.commits import checked_out, this_version
from scripts.benchmarks.figures import Table, machine
from scripts.benchmarks.pairs import Block, Comparison, Pair, compare
from scripts.benchmarks.sides import Side, opened_sides
from scripts.benchmarks.world import BATCH, document, new_bot
from scripts.korquad import paragraphs

WARM_UP, WARM_UP_BATCHES = 60, 8
STARTS = 6
"""Of both servers, on new stores; the one that starts first takes turns."""
SETTLE_SECONDS = 2.0
LIMIT = 5
Call = Callable[[Side, int, int], Awaitable[float]]
"""Does the thing once on a side, over its connection number so-and-so, with the input number so-and-so; its seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``calls`` a block; ``units`` is what one call counts for in the throughput."""

    pairs: int
    calls: int
    clients: int = 1
    units: int = 1
    together: bool = False
    """Both versions at the same time rather than in turn."""


class Turns:
    """Takes the two sides' blocks of one plan."""

    def __init__(self, sides: tuple[Side, Side], plan: Plan, call: Call) -> None:
        self._sides = sides
        self._plan = plan
        self._call = call
        self._lot = Random(1)
        self._next = 0

    async def pair(self) -> Pair:
        numbers = range(self._next, self._next + self._plan.calls)
        self._next += self._plan.calls
        order = list(self._sides)
        gc.collect()
        gc.disable()
        try:
            if self._plan.together:
                blocks = dict(zip(order, await asyncio.gather(*(self._block(s, numbers) for s in order)), strict=True))
            elif self._plan.clients > 1:
                self._lot.shuffle(order)
                blocks = {side: await self._block(side, numbers) for side in order}
            else:
                blocks = await self._call_by_call(order, numbers)
        finally:
            gc.enable()
        return blocks[self._sides[0]], blocks[self._sides[1]]

    async def _call_by_call(self, order: list[Side], numbers: Sequence[int]) -> dict[Side, Block]:
        times: dict[Side, list[float]] = {side: [] for side in order}
        for number in numbers:
            self._lot.shuffle(order)
            for side in order:
                times[side].append(await self._call(side, 0, number))
        return {side: Block(taken, self._plan.units * len(taken) / sum(taken)) for side, taken in times.items()}

    async def _block(self, side: Side, numbers: Sequence[int]) -> Block:
        remaining: Iterator[int] = iter(numbers)
        times: list[float] = []

        async def client(which: int) -> None:
            for number in remaining:
                seconds = await self._call(side, which, number)
                times.append(seconds)

        began = time.perf_counter()
        await asyncio.gather(*map(client, range(self._plan.clients)))
        return Block(times, self._plan.units * len(times) / (time.perf_counter() - began))


QUESTIONS = [question for item in paragraphs() for question in item.questions]
DOCUMENTS = [(item.title, item.text) for item in paragraphs()]


async def _ask(side: Side, which: int, body: dict[str, Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = await side.connections[which].call("POST", "/search/query", {"chat_bot_id": side.bot, **body})
    return time.perf_counter() - began, answer


def _search(mode: str) -> Call:
    async def call(side: Side, which: int, number: int) -> float:
        question = QUESTIONS[number % len(QUESTIONS)]
        seconds, answer = await _ask(side, which, {"query_text": question, "limit": LIMIT, "mode": mode})
        assert len(answer["results"]) == LIMIT, answer
        return seconds

    return call


async def _insert_batch(side: Side, which: int, number: int) -> float:
    return await _load(side, which, side.bot, number)


async def _load(side: Side, which: int, bot: str, number: int) -> float:
    start = number * BATCH % (len(DOCUMENTS) - BATCH)
    body = {"documents": [document(bot, *one) for one in DOCUMENTS[start : start + BATCH]]}
    began = time.perf_counter()
    answer = await side.connections[which].call("POST", "/data/insert/batch", body)
    seconds = time.perf_counter() - began
    assert answer["failure_count"] == 0, answer
    return seconds


async def _insert_one(side: Side, which: int, number: int) -> float:
    body = document(side.bot, *DOCUMENTS[number % len(DOCUMENTS)])
    began = time.perf_counter()
    await side.connections[which].call("POST", "/data/insert", body)
    return time.perf_counter() - began


async def _search_own_write(side: Side, which: int, number: int) -> float:
    """The search alone; the insert before it is not counted."""
    text = f"document {number}"
    inserted = await side.connections[which].call("POST", "/data/insert", document(side.bot, text, text))
    seconds, answer = await _ask(side, which, {"query_text": text, "limit": LIMIT, "mode": "dense"})
    assert answer["results"][0]["doc_id"] == inserted["doc_id"], answer
    return seconds


class LoadedTurns(Turns):
    """A side's searches while another of its bots is loaded; the throughput is the documents/s that are loaded.

    Block by block: the load of one version must not slow the other.
    """

    async def _call_by_call(self, order: list[Side], numbers: Sequence[int]) -> dict[Side, Block]:
        self._lot.shuffle(order)
        return {side: await self._loaded_block(side, numbers) for side in order}

    async def _loaded_block(self, side: Side, numbers: Sequence[int]) -> Block:
        stored = 0
        enough = asyncio.Event()
        loading = asyncio.Event()

        async def load() -> None:
            nonlocal stored
            for number in cycle(range(len(DOCUMENTS))):
                await _load(side, 1, side.loaded_bot, number)
                stored += BATCH
                loading.set()
                if enough.is_set():
                    return

        bulk = asyncio.create_task(load())
        await loading.wait()
        before, began = stored, time.perf_counter()
        times = [await self._call(side, 0, number) for number in numbers]
        speed = (stored - before) / (time.perf_counter() - began)
        enough.set()
        await bulk
        return Block(times, speed)


async def _taken(turns: Turns, plan: Plan, title: str) -> list[Pair]:
    """All pairs of a plan, after some calls that do not count."""
    bar = tqdm(range(plan.pairs), desc=title, unit="pair", disable=None)
    return [await turns.pair() for _ in bar]


async def _warm_up(sides: Sequence[Side], call: Call, calls: int = WARM_UP) -> None:
    for number in range(calls):
        for side in sides:
            await call(side, 0, number)


async def _filled(sides: Sequence[Side], clients: int, *, filled: bool = True) -> None:
    """All paragraphs in one request: Milvus Lite writes a segment whenever nothing comes for half a second, and how
    many there are decides how fast it searches."""
    for side in sides:
        await side.connect(clients)
        side.bot = await new_bot(side.connections[0])
        if filled:
            body = {"documents": [document(side.bot, *one) for one in DOCUMENTS]}
            answer = await side.connections[0].call("POST", "/data/insert/batch", body)
            assert answer["failure_count"] == 0, answer
    await asyncio.sleep(SETTLE_SECONDS)  # Milvus goes on with what was just written, and that is not the question.


@dataclass(frozen=True, slots=True)
class Asked:
    """One row of what was found. ``what`` says which calls."""

    what: str
    plan: Plan
    starts: list[list[Pair]]


Found = list[Asked]
Sides = tuple[Side, Side]


def _pairs(options: Any, usual: int) -> int:
    """Of one start."""
    return -(-(options.pairs or usual) // STARTS)


async def _search_rows(sides: Sides, options: Any) -> Found:
    call = _search(options.mode)
    numbers = options.clients or [1, 16]
    await _filled(sides, max(numbers))
    await _warm_up(sides, call)
    found = []
    for clients in numbers:
        # Several at once: a block must last, or its ends count for too much.
        plan = Plan(_pairs(options, 60), 50 if clients == 1 else 20 * clients, clients=clients)
        what = f"search, {options.mode}, {clients} client{'s' * (clients > 1)}"
        found.append(Asked(what, plan, [await _taken(Turns(sides, plan, call), plan, what)]))
    return found


async def _ingest_rows(sides: Sides, options: Any) -> Found:
    await _filled(sides, 1, filled=False)
    found = []
    # One by one first: Milvus Lite goes on with large batches for seconds.
    for what, call, plan in (
        ("insert, one by one", _insert_one, Plan(_pairs(options, 60), 50)),
        (f"insert, batches of {BATCH}", _insert_batch, Plan(_pairs(options, 30), 16, units=BATCH)),
    ):
        await _warm_up(sides, call, WARM_UP if plan.units == 1 else WARM_UP_BATCHES)
        found.append(Asked(what, plan, [await _taken(Turns(sides, plan, call), plan, what)]))
    return found


async def _fresh_rows(sides: Sides, options: Any) -> Found:
    await _filled(sides, 1)
    # On the server each search ends with a tick. In turns, one version would always begin just after its tick
    # and the other at some other point of it.
    on_server = options.milvus == "server"
    plan = Plan(_pairs(options, 48), 10 if on_server else 50, together=on_server)
    turns = Turns(sides, plan, _search_own_write)
    what = "search right after an insert"
    return [Asked(what, plan, [await _taken(turns, plan, what)])]


async def _bulk_rows(sides: Sides, options: Any) -> Found:
    call = _search("dense")
    await _filled(sides, 2)
    for side in sides:
        side.loaded_bot = await new_bot(side.connections[1])
    await _warm_up(sides, call)
    plan = Plan(_pairs(options, 48), 50)
    what = "search while another bot is loaded"
    return [Asked(what, plan, [await _taken(LoadedTurns(sides, plan, call), plan, what)])]


async def _startup_rows(sides: Sides, options: Any) -> Found:
    """On the data of an earlier start."""
    lot = Random(1)
    plan = Plan(options.pairs or 20, 1)
    taken: list[dict[Side, Block]] = []
    for turn in tqdm(range(plan.pairs + 1), desc="startup", unit="pair", disable=None):
        order = list(sides)
        lot.shuffle(order)
        blocks = {}
        for side in order:
            with side.started() as seconds:
                blocks[side] = Block([seconds], 1 / seconds)
        if turn:
            taken.append(blocks)
    return [Asked("start", plan, [[(blocks[sides[0]], blocks[sides[1]]) for blocks in taken]])]


ROWS: dict[str, Callable[[Sides, Any], Awaitable[Found]]] = {
    "search": _search_rows,
    "ingest": _ingest_rows,
    "fresh": _fresh_rows,
    "bulk": _bulk_rows,
    "startup": _startup_rows,
}


async def measure(question: str, options: Any) -> list[Table]:
    """``options``: against, milvus, embedder, pairs, history; of search also clients and mode."""
    with tempfile.TemporaryDirectory(prefix="chat-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user where this runs as root.
        this, other = this_version(), checked_out(options.against, folder / "commit")
        of_starts: list[Found] = []
        for number in range(1 if question == "startup" else STARTS):
            home = folder / f"start-{number}"
            home.mkdir(mode=0o755)
            async with opened_sides(this, other, home, options.milvus) as sides:
                with ExitStack() as stack:
                    if question != "startup":
                        for side in sides if number % 2 else reversed(sides):
                            stack.enter_context(side.served(options.embedder))
                    of_starts.append(await ROWS[question](sides, options))
    found = [
        Asked(rows[0].what, rows[0].plan, [row.starts[0] for row in rows]) for rows in zip(*of_starts, strict=True)
    ]
    note = (
        f"{this.commit} over {other.commit}, Milvus {options.milvus}, taking turns; the ratio of pairs of blocks, 20 % "
        "of them cut at either end, with its 95 % interval (bootstrap over starts and their pairs)."
    )
    table = Table(f"{question}-against", f"{question.capitalize()} against {options.against}", note=note)
    for asked in found:
        comparison = compare(asked.starts)
        _append(options.history, question, this.commit, other.commit, options, asked, comparison)
        table.add(**_cells(asked, comparison))
    return [table]


def _cells(asked: Asked, comparison: Comparison) -> dict[str, str]:
    verdicts = comparison.verdicts()
    pairs = [pair for of_start in asked.starts for pair in of_start]
    ours, theirs = ([1000 * median(block.times) for block in blocks] for blocks in zip(*pairs, strict=True))
    return {
        "calls": asked.what,
        "pairs": f"{len(pairs)} of {asked.plan.calls} in {len(asked.starts)} starts",
        "p50 ms, this / other": f"{median(ours):.2f} / {median(theirs):.2f}",
        "p50": f"{comparison.p50}: {verdicts['p50']}",
        "p95": f"{comparison.p95}: {verdicts['p95']}",
        "throughput": f"{comparison.throughput}: {verdicts['throughput']}",
    }


def _append(
    path: Path, question: str, this: str, other: str, options: Any, asked: Asked, comparison: Comparison
) -> None:
    """A line of JSON."""
    facts = dict(machine())
    line = {
        "when": facts.pop("when"),
        "commit": this,
        "against": other,
        "question": question,
        "calls": asked.what,
        "milvus": options.milvus,
        "embedder": "use-multilingual" if question == "startup" else options.embedder,
        "starts": len(asked.starts),
        "pairs": sum(map(len, asked.starts)),
        "calls_in_a_block": asked.plan.calls,
        **{name: {key: round(value, 4) for key, value in found.items()} for name, found in asdict(comparison).items()},
        "verdicts": comparison.verdicts(),
        "machine": {name: value for name, value in facts.items() if name != "commit"},
    }
    with path.open("a", encoding="utf-8") as history:
        history.write(json.dumps(line, ensure_ascii=False) + "\n")
