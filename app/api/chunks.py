"""Routes of /data/document/{doc_id}/chunks: single chunks."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response

from app.api import data
from app.api.auth import AccountDep
from app.api.conditions import ETAG, NOT_MODIFIED, PreconditionDep, not_modified
from app.api.deps import READ, WRITE, AccountQuery, BotQuery, DocPath, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.api.idempotency import ResponderDep
from app.core.services import Services
from app.core.write.chunk_edits import ChunkEdit, DeleteChunk, InsertChunk, ReplaceChunk
from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Outcome
from app.models import data as bodies
from app.models.data import ChunkDetail, ChunkList, ChunkOut, ChunkWritten
from app.models.fields import CHUNKS_PER_DOCUMENT
from app.schemas.versions import Precondition
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/data/document/{doc_id}/chunks", tags=["data"])

ChunkPath = Annotated[
    int, Path(alias="chunk_index", ge=0, lt=CHUNKS_PER_DOCUMENT, description="The chunk_index.", examples=[1])
]
Run = Callable[[IdempotentRequest | None], Awaitable[Sequence[Outcome]]]
Build = Callable[[Sequence[Outcome]], ChunkWritten]


@router.get(
    "",
    dependencies=[READ],
    response_model=ChunkList,
    responses={200: ETAG, 304: NOT_MODIFIED, **error_responses(404, 409, 412, *COMMON_ERRORS)},
    operation_id="list_chunks",
)
async def list_chunks(
    doc_id: DocPath,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    condition: PreconditionDep,
    response: Response,
    limit: data.ChunkPageSize = 100,
    cursor: data.Cursor = 0,
) -> ChunkList | Response:
    """A document's chunks in order, page by page."""
    document, chunks, next_cursor = await services.documents.get(bot_id, account, doc_id, cursor, limit)
    if known := not_modified(condition, document.version, response):
        return known
    return ChunkList(
        doc_id=doc_id,
        chunk_count=document.chunk_count,
        chunks=[ChunkOut.model_validate(chunk) for chunk in chunks],
        next_cursor=None if next_cursor is None else str(next_cursor),
    )


@router.get(
    "/{chunk_index}",
    dependencies=[READ],
    response_model=ChunkDetail,
    responses={200: ETAG, 304: NOT_MODIFIED, **error_responses(404, 412, *COMMON_ERRORS)},
    operation_id="get_chunk",
)
async def get(
    doc_id: DocPath,
    chunk_index: ChunkPath,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    condition: PreconditionDep,
    response: Response,
) -> ChunkDetail | Response:
    """One chunk of a document. The ETag is the document's."""
    version, chunk = await services.documents.chunk(bot_id, account, doc_id, chunk_index)
    if known := not_modified(condition, version, response):
        return known
    return ChunkDetail(doc_id=doc_id, chunk=ChunkOut.model_validate(chunk))


@router.post(
    "",
    dependencies=[WRITE],
    status_code=201,
    response_model=ChunkWritten,
    responses={201: ETAG, **error_responses(404, 409, 412, 502, *BODY_ERRORS)},
    operation_id="insert_chunk",
)
async def insert(
    doc_id: DocPath,
    body: bodies.InsertChunk,
    services: ServicesDep,
    account: AccountDep,
    condition: PreconditionDep,
    respond: ResponderDep,
) -> Response:
    """Inserts a chunk; only its text is embedded. The chunk at its place, and those after it without a gap, move up."""
    owner, timings = account.resolve(body.account_name), Stopwatch()
    edit = InsertChunk(body.chunk_index, body.text, body.page_number)
    return await respond(201, owner, *_editing(services, body.chat_bot_id, owner, doc_id, edit, timings, condition))


@router.put(
    "/{chunk_index}",
    dependencies=[WRITE],
    response_model=ChunkWritten,
    responses={200: ETAG, **error_responses(404, 409, 412, 502, *BODY_ERRORS)},
    operation_id="replace_chunk",
)
async def replace(
    doc_id: DocPath,
    chunk_index: ChunkPath,
    body: bodies.PutChunk,
    services: ServicesDep,
    account: AccountDep,
    condition: PreconditionDep,
    respond: ResponderDep,
) -> Response:
    """Replaces text and page_number of a chunk. No other chunk is embedded."""
    owner, timings = account.resolve(body.account_name), Stopwatch()
    edit = ReplaceChunk(chunk_index, body.text, body.page_number)
    return await respond(200, owner, *_editing(services, body.chat_bot_id, owner, doc_id, edit, timings, condition))


@router.delete(
    "/{chunk_index}",
    dependencies=[WRITE],
    response_model=ChunkWritten,
    responses={200: ETAG, **error_responses(404, 409, 412, *COMMON_ERRORS)},
    operation_id="delete_chunk",
)
async def delete(
    doc_id: DocPath,
    chunk_index: ChunkPath,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    condition: PreconditionDep,
    respond: ResponderDep,
) -> Response:
    """Deletes a chunk; nothing is embedded, and the others keep their chunk_index. The last chunk cannot be deleted."""
    edit, timings = DeleteChunk(chunk_index), Stopwatch()
    return await respond(200, account, *_editing(services, bot_id, account, doc_id, edit, timings, condition))


def _editing(
    services: Services,
    bot_id: UUID,
    owner: str | None,
    doc_id: int,
    edit: ChunkEdit,
    timings: Stopwatch,
    condition: Precondition | None,
) -> tuple[Run, Build]:
    def run(idempotent: IdempotentRequest | None) -> Awaitable[Sequence[Outcome]]:
        return services.ingest.edit_chunks(bot_id, owner, doc_id, edit, timings, idempotent, condition)

    def build(outcomes: Sequence[Outcome]) -> ChunkWritten:
        assert edit.chunk_index is not None
        return {
            "status": "success",
            "doc_id": doc_id,
            "chunk_index": edit.chunk_index,
            "chunk_count": outcomes[0].chunks,
            "embedded_chunks": outcomes[0].embedded_chunks,
            **data.write_times(timings),
        }

    return run, build
