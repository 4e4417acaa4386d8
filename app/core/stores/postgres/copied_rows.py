"""Rows of writes, and how COPY stores them."""

from collections.abc import Iterable, Sequence

from app.core.stores.postgres.connection import Connection
from app.schemas.rows import CHUNKS_PER_GENERATION, CREATED_AT, DOCUMENT_COLUMNS, DOCUMENT_TABLE, WriteRow


def chunk_records(writes: Sequence[WriteRow]) -> Iterable[tuple[object, ...]]:
    """CHUNK_COLUMNS of every chunk."""
    for write in writes:
        first = write.generation * CHUNKS_PER_GENERATION
        for chunk in write.document.chunks:
            index = chunk.chunk_index
            yield (write.bot_id, first + index, write.doc_id, index, chunk.text, chunk.page_number)


async def insert_documents(conn: Connection, writes: Sequence[WriteRow]) -> None:
    """Those with a ``created_at`` of their own, which are imported, keep it."""
    if new := [_document_record(write) for write in writes if write.document.created_at is None]:
        await conn.copy_records_to_table(DOCUMENT_TABLE, columns=DOCUMENT_COLUMNS, records=new)
    if len(new) < len(writes):
        kept = [(*_document_record(write), at) for write in writes if (at := write.document.created_at) is not None]
        await conn.copy_records_to_table(DOCUMENT_TABLE, columns=(*DOCUMENT_COLUMNS, CREATED_AT), records=kept)


def _document_record(write: WriteRow) -> tuple[object, ...]:
    """DOCUMENT_COLUMNS."""
    document = write.document
    return (
        write.bot_id,
        write.doc_id,
        write.generation,
        document.title,
        document.file_path,
        document.file_type,
        document.author,
        document.tags,
        document.metadata,
        len(document.chunks),
        document.chunk_span,
        document.external_id,
    )
