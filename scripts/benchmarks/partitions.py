"""PostgreSQL alone: all bots in one table, with and without an index on bot_id, or a list partition for each."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from tqdm import tqdm

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.migrations import migrate
from app.schemas.queries import SQL
from app.schemas.rows import ExpectedBot
from scripts.benchmarks.figures import Table, percentile

COLUMNS = "bot_id uuid NOT NULL, doc_id bigint NOT NULL, title text NOT NULL, metadata jsonb NOT NULL"
WAYS = {
    "one table, no bot index": [
        f"CREATE TABLE plain ({COLUMNS})",
        "CREATE INDEX ON plain USING gin (metadata jsonb_path_ops)",
        "CREATE INDEX ON plain (doc_id)",
    ],
    "one table, (bot_id, ...) indexes": [
        f"CREATE TABLE indexed ({COLUMNS}, PRIMARY KEY (bot_id, doc_id))",
        "CREATE INDEX ON indexed USING gin (metadata jsonb_path_ops)",
        "CREATE INDEX ON indexed (bot_id, title)",
    ],
    "list partitions": [
        f"CREATE TABLE parted ({COLUMNS}, PRIMARY KEY (bot_id, doc_id)) PARTITION BY LIST (bot_id)",
        "CREATE INDEX ON parted USING gin (metadata jsonb_path_ops)",
    ],
}
TABLES = dict(zip(WAYS, ("plain", "indexed", "parted"), strict=True))
FILL = """
INSERT INTO {table} SELECT $1::uuid, n, 'document ' || n || ' ' || md5(n::text),
    jsonb_build_object('language', CASE WHEN n % 2 = 0 THEN 'ko' ELSE 'en' END, 'number', n % 1000,
                       'source', md5($1::uuid::text))
FROM generate_series(1, $2::integer) AS n
"""
QUESTIONS = {
    "title_scan_ms": (
        "SELECT count(*) FROM {table} WHERE bot_id = $1 AND title LIKE '%' || md5($2::bigint::text) || '%'"
    ),
    "metadata_filter_ms": (
        "SELECT doc_id FROM {table} WHERE bot_id = $1 AND metadata @> jsonb_build_object('number', $2::bigint % 1000)"
    ),
    "lookup_ms": "SELECT * FROM {table} WHERE bot_id = $1 AND doc_id = $2",
}

KEYS = [number << 16 for number in range(1, 22)]
STATEMENTS: dict[str, list[Any]] = {
    "get_document": [500],
    "current_chunks": [KEYS, KEYS, *(None,) * len(ExpectedBot._fields)],
}
"""Statements of the server, with their parameters after the bot."""


async def three_ways(address: PostgresAddress, bots: int, documents: int, repeats: int) -> Table:
    """Runs each of ``repeats`` queries on the three tables in turn."""
    note = f"{bots} bots with {documents:,} documents each; medians of {repeats}, the three taking turns."
    table = Table("partitions", "Three ways to keep bots apart in PostgreSQL", note=note)
    conn = await _connected(address)
    names = [uuid4() for _ in range(bots)]
    for way, statements in WAYS.items():
        for statement in statements:
            await conn.execute(statement)
        for number, bot in enumerate(tqdm(names, desc=way, unit="bot", disable=None)):
            if TABLES[way] == "parted":
                await conn.execute(f"CREATE TABLE part_{number} PARTITION OF parted FOR VALUES IN ('{bot}')")
            await conn.execute(FILL.format(table=TABLES[way]), bot, documents)
        await conn.execute(f"VACUUM ANALYZE {TABLES[way]}")
    times: dict[str, dict[str, list[float]]] = {way: {name: [] for name in QUESTIONS} for way in WAYS}
    for name, sql in QUESTIONS.items():
        for turn in tqdm(range(repeats), desc=name, disable=None):
            bot = names[turn * 7 % bots]
            for way in WAYS:
                began = time.perf_counter()
                await conn.fetch(sql.format(table=TABLES[way]), bot, turn * 37 % documents + 1)
                times[way][name].append(1000 * (time.perf_counter() - began))
    for way in WAYS:
        cells: dict[str, Any] = {name: median(values) for name, values in times[way].items()}
        cells["delete_a_bot_ms"] = await _timed(conn, _deletion(way, names[0], 0))
        cells["vacuum_after_ms"] = 0.0 if TABLES[way] == "parted" else await _timed(conn, f"VACUUM {TABLES[way]}")
        size = "SELECT sum(pg_indexes_size(c.oid)) / 1048576.0 FROM pg_class c WHERE relkind = 'r' AND relname ~ $1"
        pattern = "^part_[0-9]+$" if TABLES[way] == "parted" else f"^{TABLES[way]}$"
        table.add(way=way, **cells, indexes_MB=float(await conn.fetchval(size, pattern)))
    await conn.execute("DROP TABLE plain, indexed, parted")
    await conn.close()
    return table


async def counts(address: PostgresAddress, partitions: Sequence[int], repeats: int) -> Table:
    """The server's own tables, a database for each number of bots; queries of one bot with 1,000 documents."""
    note = f"Medians of {repeats}, the databases taking turns; ratios of p50 to the first one's."
    table = Table("partition-counts", "One bot's statements beside more and more partitions", note=note)
    asked = [await _with_bots(address, number) for number in partitions]
    times: dict[str, list[list[float]]] = {name: [[] for _ in partitions] for name in STATEMENTS}
    for turn in tqdm(range(repeats + 1), desc="statements", disable=None):
        for name, values in STATEMENTS.items():
            for (conn, bot), taken in zip(asked, times[name], strict=True):
                began = time.perf_counter()
                await conn.fetch(SQL[name], bot, *values)
                if turn:  # The first is planned with empty caches.
                    taken.append(1000 * (time.perf_counter() - began))
    for position, number in enumerate(partitions):
        cells: dict[str, Any] = {"partitions": str(number)}
        for name in STATEMENTS:
            p50 = median(times[name][position])
            cells[f"{name}_p50_ms"] = f"{p50:.3f}"
            cells[f"{name}_p95_ms"] = f"{percentile(times[name][position], 95):.3f}"
            cells[f"{name}_ratio"] = f"{p50 / median(times[name][0]):.2f}"
        table.add(**cells)
    for conn, _ in asked:
        await conn.close()
    return table


async def _with_bots(address: PostgresAddress, number: int) -> tuple[Any, UUID]:
    """A connection to a new database with ``number`` bots, and the bot that has documents."""
    there = replace(address, database=f"bots_{number}")
    admin = await _connected(address)
    await admin.execute(f"CREATE DATABASE {there.database}")
    await admin.close()
    await asyncio.to_thread(migrate, there)
    conn = await _connected(there)
    bot = await _bot(conn)
    await conn.execute(
        "INSERT INTO documents (bot_id, doc_id, generation, title, chunk_count, chunk_span) "
        "SELECT $1, n, n, 't' || n, 1, 1 FROM generate_series(1, 1000) AS n",
        bot,
    )
    await conn.execute(
        "INSERT INTO document_chunks (bot_id, chunk_id, doc_id, chunk_index, text) "
        "SELECT $1, n * 65536, n, 0, md5(n::text) FROM generate_series(1, 1000) AS n",
        bot,
    )
    for _ in tqdm(range(1, number), desc=f"{number} partitions", unit="bot", disable=None):
        await _bot(conn)
    await conn.close()  # It has every partition in its cache; a server's connection has those that it was used for.
    return await _connected(there), bot


async def _bot(conn: Any) -> UUID:
    bot = uuid4()
    register = "INSERT INTO bot_registry (bot_id, bot_name, collection_name) VALUES ($1, 'b', $2)"
    await conn.execute(register, bot, f"c_{bot.hex}")
    return bot


async def _timed(conn: Any, statement: str) -> float:
    began = time.perf_counter()
    await conn.execute(statement)
    return 1000 * (time.perf_counter() - began)


def _deletion(way: str, bot: UUID, number: int) -> str:
    if TABLES[way] == "parted":
        return f"DROP TABLE part_{number}"
    return f"DELETE FROM {TABLES[way]} WHERE bot_id = '{bot}'"  # noqa: S608 - names and a UUID of our own making


async def _connected(address: PostgresAddress) -> Any:
    return await asyncpg.connect(
        host=address.host,
        port=address.port,
        user=address.user,
        database=address.database,
        server_settings={"plan_cache_mode": "force_custom_plan", "jit": "off"},
    )
