"""What pages of documents and counts of values cost, and whether a walk beside writers skips or repeats documents.

Times queries and facets of one bot with and without an index that serves them. Then reads all documents in pages while
writers insert, replace, change and delete others. Exits 1 when a walk skips or repeats a document.
"""

import argparse
import asyncio
import random
import time
from statistics import median
from typing import Any

from tqdm import tqdm

from scripts.benchmarks.figures import Table, markdown
from scripts.benchmarks.http import Connection
from scripts.benchmarks.world import new_bot
from scripts.own_server import own_server

BATCH = 500
WRITERS = 4
CATEGORIES = 50
ANALYZE_SECONDS = 90.0
"""Rest after the load: autovacuum looks for tables to analyze once a minute."""


def documents(bot: str, first: int, count: int) -> list[dict[str, Any]]:
    draw = random.Random(first)
    return [
        {
            "document": {
                "chat_bot_id": bot,
                "title": f"제목 {draw.randrange(10**6)}",
                "tags": [f"tag {number}" for number in draw.sample(range(CATEGORIES), 3)],
                "metadata": {
                    "number": first + index,
                    "language": draw.choice(["ko", "en", "ja"]),
                    "category": f"category {draw.randrange(CATEGORIES)}",
                    "note": "x" * 200,
                },
            },
            "chunks": [{"chunk_index": 0, "text": f"text {first + index}"}],
        }
        for index in range(count)
    ]


async def load(connection: Connection, bot: str, first: int, count: int) -> list[int]:
    """The doc_ids."""
    found: list[int] = []
    for start in tqdm(range(first, first + count, BATCH), desc="insert", unit="batch", disable=None):
        body = {"documents": documents(bot, start, min(BATCH, first + count - start))}
        answer = await connection.call("POST", "/data/insert/batch", body)
        assert answer["failure_count"] == 0, answer
        found += [result["doc_id"] for result in answer["results"]]
    return found


def calls() -> dict[str, tuple[str, dict[str, Any]]]:
    """By name: a path and a body."""
    category = {"type": "eq", "key": "metadata.category", "value": "category 7"}
    language = {"type": "eq", "key": "metadata.language", "value": "ko"}
    tag = {"type": "contains", "key": "tags", "value": "tag 7"}
    later = {"type": "gte", "key": "metadata.number", "value": 20_000}
    return {
        "by doc_id": ("query", {}),
        "by created_at, newest first": ("query", {"sort": "created_at", "order": "desc"}),
        "one of 50 categories": ("query", {"filter": category}),
        "one of 3 languages, newest first": ("query", {"filter": language, "sort": "created_at", "order": "desc"}),
        "a tag, by title": ("query", {"filter": tag, "sort": "title"}),
        "a range of numbers, no index": ("query", {"filter": later}),
        "by title, no index": ("query", {"sort": "title"}),
        "by updated_at, no index": ("query", {"sort": "updated_at", "order": "desc"}),
        "one of 50 categories, with total": ("query", {"filter": category, "total": True}),
        "all, with total, no index": ("query", {"total": True}),
        "facets of languages in a category": ("facets", {"key": "metadata.language", "filter": category}),
        "facets of tags in a category": ("facets", {"key": "tags", "filter": category}),
        "facets of all languages, no index": ("facets", {"key": "metadata.language"}),
        "facets of all tags, no index": ("facets", {"key": "tags"}),
    }


async def times(connection: Connection, bot: str, repeats: int, count: int) -> Table:
    note = f"{count:,} documents in one bot, pages of 100, one client, {repeats} calls of each. Times are in ms."
    table = Table("listing", "Pages of documents and counts of values", note=note)
    for name, (path, body) in tqdm(calls().items(), desc="calls", disable=None):
        taken = []
        for _ in range(repeats + 3):
            began = time.perf_counter()
            await connection.call("POST", f"/data/documents/{path}", {"chat_bot_id": bot, **body})
            taken.append(1000 * (time.perf_counter() - began))
        table.add(call=name, p50_ms=median(taken[3:]), longest_ms=max(taken[3:]))
    return table


async def write(url: str, bot: str, stop: asyncio.Event, writer: int) -> int:
    """Inserts, replaces, changes and deletes documents of its own until ``stop``; returns how many writes it made."""
    connection = await Connection.open(url)
    writes = 0
    while not stop.is_set():
        (body,) = documents(bot, 10**6 + 1000 * writer + writes, 1)
        doc_id = (await connection.call("POST", "/data/insert", body))["doc_id"]
        await connection.call("PUT", f"/data/document/{doc_id}", body)
        patch = {"chat_bot_id": bot, "metadata_updates": {"patched": True}}
        await connection.call("PATCH", f"/data/document/{doc_id}/metadata", patch)
        writes += 3
        if doc_id % 2:
            await connection.call("DELETE", f"/data/document/{doc_id}?chat_bot_id={bot}")
            writes += 1
    connection.close()
    return writes


async def walk(url: str, bot: str, stored: set[int], sort: str) -> dict[str, Any]:
    connection, stop = await Connection.open(url), asyncio.Event()
    writers = [asyncio.create_task(write(url, bot, stop, number)) for number in range(WRITERS)]
    await asyncio.sleep(1)
    seen: list[int] = []
    pages, began, cursor = 0, time.perf_counter(), None
    while True:
        body = {"chat_bot_id": bot, "sort": sort, "limit": 1000, "cursor": cursor}
        page = await connection.call("POST", "/data/documents/query", body)
        seen += [one["doc_id"] for one in page["documents"]]
        pages, cursor = pages + 1, page["next_cursor"]
        if cursor is None:
            break
    seconds = time.perf_counter() - began
    stop.set()
    writes = sum(await asyncio.gather(*writers))
    connection.close()
    return {
        "order": sort,
        "documents_before": len(stored),
        "pages": pages,
        "seconds": seconds,
        "writes": writes,
        "skipped": len(stored - set(seen)),
        "repeated": len(seen) - len(set(seen)),
    }


async def measured(url: str, options: argparse.Namespace) -> list[Table]:
    connection = await Connection.open(url)
    bot = await new_bot(connection)
    stored = await load(connection, bot, 0, options.documents)
    await asyncio.sleep(ANALYZE_SECONDS)
    tables = [await times(connection, bot, options.repeats, options.documents)]
    stored += await load(connection, bot, options.documents, options.walk - options.documents)
    note = f"Pages of 1,000, beside {WRITERS} writers that insert, replace, change and delete documents of their own."
    walks = Table("walk", "Walks over all documents", note=note)
    for sort in ("doc_id", "created_at"):
        walks.add(**await walk(url, bot, set(stored), sort))
    connection.close()
    return [*tables, walks]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=30_000, help="for the times (default: %(default)s)")
    parser.add_argument("--walk", type=int, default=50_000, help="documents of a walk (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=50, help="calls of each kind (default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    with own_server(app="scripts.benchmarks.hash_app:app", EMBEDDING_CACHE_MB="0") as url:
        tables = asyncio.run(measured(url, options))
    arguments = f"--documents {options.documents} --walk {options.walk} --repeats {options.repeats}"
    print(markdown(f"scripts/bench listing {arguments}", tables))
    return int(any(row["skipped"] or row["repeated"] for row in tables[1].rows))
