"""Everything that is stored, to be compared before and after a call."""

from app.core.ports import VectorIndex
from app.core.stores.postgres.database import Database

TABLES = ("bot_registry", "documents", "document_chunks", "sagas", "vector_gc")
Contents = dict[str, list[str]]


async def contents(db: Database, index: VectorIndex) -> Contents:
    """Every row of every table, and every key of every collection."""
    stored = {
        table: sorted(row["row"] for row in await db.fetch(f"SELECT t::text AS row FROM {table} t")) for table in TABLES
    }
    for collection in await index.collections():
        stored[collection] = [str(key) async for page in index.scan(collection) for key in page]
    return stored
