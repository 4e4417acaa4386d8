"""/data: documents."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.auth import AccountDep
from app.api.deps import READ, WRITE, AccountQuery, BotQuery, DocPath, InsertBody, InsertManyBody, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, MAX_PLACES, error_responses
from app.api.idempotency import AnsweringDep
from app.api.limits import LimitsDep, check_document, check_updates, sound_documents
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
    ItemPlace,
    MetadataPatched,
    PatchMetadata,
    WriteTimes,
    chosen_updates,
)
from app.models.fields import INT64_MAX
from app.models.inserts import Item, RefusedItem
from app.utils.errors import AppError, ErrorLocation
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/data", tags=["data"])

Cursor = Annotated[
    int, Query(ge=0, le=INT64_MAX, description="next_cursor of the page before; leave it out for the first page.")
]
MAX_PAGE = 1000
PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most documents of a page.")]
ChunkPageSize = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most chunks of a page.")]


@router.post(
    "/insert",
    dependencies=[WRITE],
    status_code=201,
    response_model=DocumentInserted,
    responses=error_responses(404, 409, 502, *BODY_ERRORS),
    operation_id="insert_document",
)
async def insert(
    body: InsertBody, services: ServicesDep, account: AccountDep, limits: LimitsDep, answering: AnsweringDep
) -> Response:
    """Stores one document: found by searches from this answer on."""
    timings = Stopwatch()
    check_document(body, limits)

    def build(outcomes: Sequence[Outcome]) -> DocumentInserted:
        doc_id = outcomes[0].doc_id
        assert doc_id is not None
        return {"status": "success", "doc_id": doc_id, "total_chunks": len(body.chunks), **_times(timings)}

    bot_id, owner, document = body.document.chat_bot_id, account.named(body.account_name), body.new_document()
    return await answering(
        201, owner, build, lambda once: services.ingest.insert(bot_id, owner, document, timings, once)
    )


@router.post(
    "/insert/batch",
    dependencies=[WRITE],
    response_model=BatchInserted,
    responses=error_responses(404, 409, 502, *BODY_ERRORS),
    operation_id="insert_documents",
)
async def insert_batch(
    body: InsertManyBody, services: ServicesDep, account: AccountDep, limits: LimitsDep, answering: AnsweringDep
) -> Response:
    """Stores many documents, each wholly or not at all; a document that fails does not hold up the others.

    A document that cannot be read fails alone, too; if none can, the answer is a 422. A body that is no JSON stores
    nothing. If no document can be stored because a store or the embedder is
    unavailable, the answer is 503.
    """
    timings = Stopwatch()
    sound = sound_documents(body.documents, limits)
    documents = [(one.document.chat_bot_id, one.new_document()) if isinstance(one, Item) else one for one in sound]

    def build(outcomes: Sequence[Outcome]) -> BatchInserted:
        results = [
            _result(index, item, outcome)
            for index, (item, outcome) in enumerate(zip(body.documents, outcomes, strict=True))
        ]
        succeeded = [result for result in results if result["success"]]
        return {
            "status": "success" if len(succeeded) == len(results) else "partial" if succeeded else "failed",
            "total_documents": len(results),
            "total_chunks": sum(result["total_chunks"] for result in succeeded),
            "success_count": len(succeeded),
            "failure_count": len(results) - len(succeeded),
            "results": results,
            **_times(timings),
        }

    places = (f"body.documents.{index}.document.chat_bot_id" for index in range(len(documents)))
    owner = account.named(body.account_name, places)
    return await answering(200, owner, build, lambda once: services.ingest.insert_many(owner, documents, timings, once))


@router.get(
    "/document/{doc_id}",
    dependencies=[READ],
    responses=error_responses(404, 409, *COMMON_ERRORS),
    operation_id="get_document",
)
async def get(
    doc_id: DocPath,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    limit: ChunkPageSize = MAX_PAGE,
    cursor: Cursor = 0,
) -> DocumentDetail:
    """A document and its chunks in order, a page of them where there are many."""
    document, chunks, following = await services.documents.get(bot_id, account, doc_id, cursor, limit)
    return DocumentDetail(
        document=DocumentOut.model_validate(document),
        chunk_count=document.chunk_count,
        chunks=[ChunkOut.model_validate(chunk) for chunk in chunks],
        next_cursor=None if following is None else str(following),
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
    """A bot's documents in the order of their doc_id."""
    documents, following = await services.documents.list(bot_id, account, cursor, limit)
    return DocumentList(
        documents=[DocumentOut.model_validate(document) for document in documents],
        next_cursor=None if following is None else str(following),
    )


@router.put(
    "/document/{doc_id}",
    dependencies=[WRITE],
    response_model=DocumentReplaced,
    responses=error_responses(404, 409, 502, *BODY_ERRORS),
    operation_id="replace_document",
)
async def replace(
    doc_id: DocPath,
    body: InsertBody,
    services: ServicesDep,
    account: AccountDep,
    limits: LimitsDep,
    answering: AnsweringDep,
) -> Response:
    """Replaces metadata and chunks. Readers see the old document or the new one, never both."""
    timings = Stopwatch()
    check_document(body, limits)

    def build(outcomes: Sequence[Outcome]) -> DocumentReplaced:
        return {
            "status": "success",
            "doc_id": doc_id,
            "deleted_chunks": outcomes[0].replaced_chunks,
            "inserted_chunks": len(body.chunks),
            **_times(timings),
        }

    bot_id, owner, document = body.document.chat_bot_id, account.named(body.account_name), body.new_document()
    return await answering(
        200, owner, build, lambda once: services.ingest.replace(bot_id, owner, doc_id, document, timings, once)
    )


@router.patch(
    "/document/{doc_id}/metadata",
    dependencies=[WRITE],
    responses=error_responses(404, *BODY_ERRORS),
    operation_id="patch_document_metadata",
)
async def patch_metadata(
    doc_id: DocPath, body: PatchMetadata, services: ServicesDep, account: AccountDep, limits: LimitsDep
) -> MetadataPatched:
    """Changes metadata alone: nothing is embedded again, and filters see it at once."""
    timings = Stopwatch()
    fields, metadata = chosen_updates(body.metadata_updates)
    check_updates(metadata, limits)
    updated_at = await services.documents.patch(
        body.chat_bot_id, account.named(body.account_name), doc_id, fields, metadata, limits.metadata_bytes
    )
    return MetadataPatched(doc_id=doc_id, updated_at=updated_at, postgres_time_ms=timings.total)


@router.delete(
    "/document/{doc_id}",
    dependencies=[WRITE],
    responses=error_responses(404, *COMMON_ERRORS),
    operation_id="delete_document",
)
async def delete(doc_id: DocPath, bot_id: BotQuery, services: ServicesDep, account: AccountQuery) -> DocumentDeleted:
    """Deletes a document: gone at once for every reader."""
    timings = Stopwatch()
    with timings.measure("postgres"):
        deleted_chunks = await services.documents.delete(bot_id, account, doc_id)
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
    """Deletes many documents at one stroke; unknown ones are named and do not hold up the others."""
    timings = Stopwatch()
    with timings.measure("postgres"):
        owner = account.named(body.account_name)
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


def _result(index: int, item: Item | RefusedItem, outcome: Outcome) -> BatchResult:
    error = outcome.error
    return {
        "index": index,
        "doc_id": outcome.doc_id,
        "title": item.title,
        "total_chunks": item.total_chunks,
        "success": error is None,
        "error": _item_error(index, error) if error else None,
    }


def _item_error(index: int, error: AppError) -> ItemError:
    places = error.places[:MAX_PLACES] or [ErrorLocation(f"body.documents.{index}", error.detail)]
    named: list[ItemPlace] = [{"loc": place.loc, "msg": place.msg} for place in places]
    return {"code": error.code, "detail": error.detail, "errors": named}


def _times(timings: Stopwatch) -> WriteTimes:
    return {
        "postgres_insert_time_ms": timings["postgres"],
        "embedding_time_ms": timings["embedding"],
        "milvus_insert_time_ms": timings["milvus"],
        "total_time_ms": timings.total,
    }
