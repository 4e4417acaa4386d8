"""Routes of /data: documents."""

from collections.abc import Awaitable, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.auth import AccountDep
from app.api.conditions import ETAG, NOT_MODIFIED, PreconditionDep, not_modified
from app.api.deps import READ, WRITE, AccountQuery, BotQuery, DocPath, InsertBody, InsertManyBody, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, MAX_LOCATIONS, error_responses
from app.api.fast_route import FastRoute
from app.api.idempotency import ResponderDep, created_or_ok
from app.api.limits import LimitsDep, check_document, check_documents, check_updates
from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Outcome
from app.models.data import (
    BatchDeleted,
    BatchInserted,
    BatchResult,
    ChunkOut,
    DeleteBatch,
    DocumentDeleted,
    DocumentDetail,
    DocumentInserted,
    DocumentList,
    DocumentOut,
    DocumentReplaced,
    ItemError,
    ItemErrorLocation,
    MetadataPatched,
    PatchMetadata,
    WriteTimes,
    chosen_updates,
)
from app.models.fields import INT64_MAX
from app.models.inserts import InvalidItem, Item, OnConflict
from app.utils.errors import AppError, ErrorLocation, InvalidInput
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/data", tags=["data"], route_class=FastRoute)

Cursor = Annotated[
    int, Query(ge=0, le=INT64_MAX, description="next_cursor of the previous page; leave it out for the first page.")
]
PUT_REPLACES = "PUT always replaces"
MAX_PAGE = 1000
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of documents per page.")]
ChunkPageSize = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Maximum number of chunks per page.")]


@router.post(
    "/insert",
    dependencies=[WRITE],
    status_code=201,
    response_model=DocumentInserted,
    responses={200: {"model": DocumentInserted, **ETAG}, 201: ETAG, **error_responses(404, 409, 502, *BODY_ERRORS)},
    operation_id="insert_document",
)
async def insert(
    body: InsertBody, services: ServicesDep, account: AccountDep, limits: LimitsDep, respond: ResponderDep
) -> Response:
    """Stores one document. Searches find it from the moment of this response on."""
    timings = Stopwatch()
    check_document(body, limits)
    bot_id, owner, document = body.document.chat_bot_id, account.resolve(body.account_name), body.new_document()

    def run(idempotent: IdempotentRequest | None) -> Awaitable[Sequence[Outcome]]:
        return services.ingest.insert(bot_id, owner, document, timings, idempotent, body.on_conflict)

    def build(outcomes: Sequence[Outcome]) -> DocumentInserted:
        return inserted(outcomes[0], len(body.chunks), timings)

    return await respond(201 if body.on_conflict == "error" else created_or_ok, owner, run, build)


@router.post(
    "/insert/batch",
    dependencies=[WRITE],
    response_model=BatchInserted,
    responses=error_responses(404, 409, 502, *BODY_ERRORS),
    operation_id="insert_documents",
)
async def insert_batch(
    body: InsertManyBody, services: ServicesDep, account: AccountDep, limits: LimitsDep, respond: ResponderDep
) -> Response:
    """Stores many documents. Each is stored completely or not at all, and one that fails does not stop the others.

    A document that is not valid fails alone as well; if no document is valid, the response is a 422. A body that is
    not JSON stores nothing. If no document can be stored because a store or the embedder is unavailable, the response
    is a 503.
    """
    timings = Stopwatch()
    checked = check_documents(body.documents, limits)
    documents = [(one.document.chat_bot_id, one.new_document()) if isinstance(one, Item) else one for one in checked]
    locations = (f"body.documents.{index}.document.chat_bot_id" for index in range(len(documents)))
    owner = account.resolve(body.account_name, locations)

    def run(idempotent: IdempotentRequest | None) -> Awaitable[Sequence[Outcome]]:
        return services.ingest.insert_many(owner, documents, timings, idempotent, body.on_conflict)

    def build(outcomes: Sequence[Outcome]) -> BatchInserted:
        return batch_inserted(body.documents, outcomes, timings)

    return await respond(200, owner, run, build, of_document=False)


@router.get(
    "/document/{doc_id}",
    dependencies=[READ],
    response_model=DocumentDetail,
    responses={200: ETAG, 304: NOT_MODIFIED, **error_responses(404, 409, 412, *COMMON_ERRORS)},
    operation_id="get_document",
)
async def get(
    doc_id: DocPath,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    condition: PreconditionDep,
    response: Response,
    limit: ChunkPageSize = MAX_PAGE,
    cursor: Cursor = 0,
) -> DocumentDetail | Response:
    """A document and its chunks in order. Long documents are returned in pages of chunks."""
    document, chunks, next_cursor = await services.documents.get(bot_id, account, doc_id, cursor, limit)
    if known := not_modified(condition, document.version, response):
        return known
    return DocumentDetail(
        document=DocumentOut.model_validate(document),
        chunk_count=document.chunk_count,
        chunks=[ChunkOut.model_validate(chunk) for chunk in chunks],
        next_cursor=None if next_cursor is None else str(next_cursor),
    )


@router.get(
    "/documents", dependencies=[READ], responses=error_responses(404, *COMMON_ERRORS), operation_id="list_documents"
)
async def list_documents(
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    limit: PageSize = 100,
    cursor: Cursor = 0,
) -> DocumentList:
    """A bot's documents, ordered by doc_id."""
    documents, next_cursor = await services.documents.list(bot_id, account, cursor, limit)
    return DocumentList(
        documents=[DocumentOut.model_validate(document) for document in documents],
        next_cursor=None if next_cursor is None else str(next_cursor),
    )


@router.put(
    "/document/{doc_id}",
    dependencies=[WRITE],
    response_model=DocumentReplaced,
    responses={200: ETAG, **error_responses(404, 409, 412, 502, *BODY_ERRORS)},
    operation_id="replace_document",
)
async def replace(
    doc_id: DocPath,
    body: InsertBody,
    services: ServicesDep,
    account: AccountDep,
    limits: LimitsDep,
    condition: PreconditionDep,
    respond: ResponderDep,
) -> Response:
    """Replaces a document's metadata and chunks. Readers see the old document or the new one, never a mix.

    A text that a chunk of the document had before is not embedded again.
    """
    timings = Stopwatch()
    check_document(body, limits)
    check_no_option(body.on_conflict, PUT_REPLACES)
    bot_id, owner, document = body.document.chat_bot_id, account.resolve(body.account_name), body.new_document()

    def run(idempotent: IdempotentRequest | None) -> Awaitable[Sequence[Outcome]]:
        return services.ingest.replace(bot_id, owner, doc_id, document, timings, idempotent, condition)

    def build(outcomes: Sequence[Outcome]) -> DocumentReplaced:
        return {
            "status": "success",
            "doc_id": doc_id,
            "deleted_chunks": outcomes[0].replaced_chunks,
            "inserted_chunks": len(body.chunks),
            "embedded_chunks": outcomes[0].embedded_chunks,
            **write_times(timings),
        }

    return await respond(200, owner, run, build)


@router.patch(
    "/document/{doc_id}/metadata",
    dependencies=[WRITE],
    responses={200: ETAG, **error_responses(404, 412, *BODY_ERRORS)},
    operation_id="patch_document_metadata",
)
async def patch_metadata(
    doc_id: DocPath,
    body: PatchMetadata,
    services: ServicesDep,
    account: AccountDep,
    limits: LimitsDep,
    condition: PreconditionDep,
    response: Response,
) -> MetadataPatched:
    """Changes only metadata. Nothing is embedded again, and filters use the new values at once."""
    timings = Stopwatch()
    fields, metadata = chosen_updates(body.metadata_updates)
    check_updates(metadata, limits)
    owner = account.resolve(body.account_name)
    version = await services.documents.patch(
        body.chat_bot_id, owner, doc_id, fields, metadata, limits.metadata_bytes, condition
    )
    response.headers["ETag"] = version.etag
    return MetadataPatched(doc_id=doc_id, updated_at=version.updated_at, postgres_time_ms=timings.total)


@router.delete(
    "/document/{doc_id}",
    dependencies=[WRITE],
    responses=error_responses(404, 412, *COMMON_ERRORS),
    operation_id="delete_document",
)
async def delete(
    doc_id: DocPath, bot_id: BotQuery, services: ServicesDep, account: AccountQuery, condition: PreconditionDep
) -> DocumentDeleted:
    """Deletes a document. No reader sees it after this response."""
    timings = Stopwatch()
    with timings.measure("postgres"):
        deleted_chunks = await services.documents.delete(bot_id, account, doc_id, condition)
    return DocumentDeleted(
        doc_id=doc_id, deleted_chunks=deleted_chunks, postgres_time_ms=timings["postgres"], total_time_ms=timings.total
    )


@router.post(
    "/document/delete/batch",
    dependencies=[WRITE],
    responses=error_responses(404, *BODY_ERRORS),
    operation_id="delete_documents",
)
async def delete_batch(body: DeleteBatch, services: ServicesDep, account: AccountDep) -> BatchDeleted:
    """Deletes many documents in one transaction. Unknown ids are returned and do not stop the others."""
    timings = Stopwatch()
    with timings.measure("postgres"):
        owner = account.resolve(body.account_name)
        deleted = await services.documents.delete_many(body.chat_bot_id, owner, body.doc_ids)
    not_found = [doc_id for doc_id in dict.fromkeys(body.doc_ids) if doc_id not in deleted]
    return BatchDeleted(
        status="success" if not not_found else "partial" if deleted else "failed",
        deleted_documents=len(deleted),
        deleted_chunks=sum(deleted.values()),
        not_found=not_found,
        postgres_time_ms=timings["postgres"],
        total_time_ms=timings.total,
    )


def batch_inserted(
    items: Sequence[Item | InvalidItem], outcomes: Sequence[Outcome], timings: Stopwatch
) -> BatchInserted:
    results = [_result(index, item, outcome) for index, (item, outcome) in enumerate(zip(items, outcomes, strict=True))]
    succeeded = [result for result in results if result["success"]]
    return {
        "status": "success" if len(succeeded) == len(results) else "partial" if succeeded else "failed",
        "total_documents": len(results),
        "total_chunks": sum(result["total_chunks"] for result in succeeded),
        "success_count": len(succeeded),
        "failure_count": len(results) - len(succeeded),
        "results": results,
        **write_times(timings),
    }


def _result(index: int, item: Item | InvalidItem, outcome: Outcome) -> BatchResult:
    error = outcome.error
    return {
        "index": index,
        "doc_id": outcome.doc_id,
        "title": item.title,
        "result": None if error else outcome.result,
        "total_chunks": item.total_chunks,
        "success": error is None,
        "error": item_error(f"body.documents.{index}", error) if error else None,
    }


def item_error(where: str, error: AppError) -> ItemError:
    """``where``: the document's location in the body."""
    locations = error.locations[:MAX_LOCATIONS] or [ErrorLocation(where, error.detail)]
    errors: list[ItemErrorLocation] = [{"loc": one.loc, "msg": one.msg} for one in locations]
    return {"code": error.code, "detail": error.detail, "errors": errors}


def inserted(outcome: Outcome, chunks: int, timings: Stopwatch) -> DocumentInserted:
    assert outcome.doc_id is not None
    return {
        "status": "success",
        "doc_id": outcome.doc_id,
        "result": outcome.result,
        "total_chunks": chunks,
        "embedded_chunks": outcome.embedded_chunks,
        **write_times(timings),
    }


def check_no_option(on_conflict: OnConflict, instead: str) -> None:
    """Raises InvalidInput if a call that is no insert has this option of inserts. ``instead``: what the call does."""
    if on_conflict != "error":
        raise InvalidInput.at("body.on_conflict", f"is an option of inserts; {instead}")


def write_times(timings: Stopwatch) -> WriteTimes:
    return {
        "postgres_insert_time_ms": timings["postgres"],
        "embedding_time_ms": timings["embedding"],
        "milvus_insert_time_ms": timings["milvus"],
        "total_time_ms": timings.total,
    }
