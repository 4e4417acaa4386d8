"""Routes of /data/documents: documents by filter."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from app.api.auth import AccountDep
from app.api.cursors import decode_cursor, encode_cursor, optional, read_integer, read_text, read_time
from app.api.deps import READ, WRITE, ServicesDep
from app.api.errors import BODY_ERRORS, error_responses
from app.api.limits import LimitsDep, check_updates
from app.models.data import DocumentOut, chosen_updates
from app.models.listing import (
    CountFacets,
    DeleteByFilter,
    DeletedByFilter,
    DocumentPage,
    FacetCount,
    FacetCounts,
    PatchByFilter,
    PatchedByFilter,
    QueryDocuments,
)
from app.schemas.filters import COLUMNS, Kind
from app.schemas.listing import Order, Place
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/data/documents", tags=["data"])

READERS: dict[Kind, Callable[[Any], Any]] = {"integer": read_integer, "time": read_time, "text": read_text}
"""Of a place's value, by the kind of the sorted column."""


@router.post(
    "/query", dependencies=[READ], responses=error_responses(404, *BODY_ERRORS), operation_id="query_documents"
)
async def query(body: QueryDocuments, services: ServicesDep, account: AccountDep) -> DocumentPage:
    """A bot's documents by filter, in an order, in pages.

    By doc_id and created_at, pages that follow each other have each document that was stored before the first of them
    exactly once, also while others are written. A document whose title or updated_at changes meanwhile may be missing
    or appear twice where the pages are in that order.
    """
    where = body.filter.to_core() if body.filter else None
    same_query = ("documents", body.chat_bot_id, body.sort, body.order, where)
    after = None
    if body.cursor is not None:
        column = COLUMNS[body.sort]
        read = READERS[column.kind] if column.required else optional(READERS[column.kind])
        readers = read, read_integer
        after = Place(*decode_cursor(body.cursor, same_query, "body.cursor", *readers))
    page = await services.listing.page(
        body.chat_bot_id,
        account.resolve(body.account_name),
        where,
        Order(body.sort, body.order == "desc"),
        after,
        body.limit,
        with_total=body.total,
    )
    return DocumentPage(
        documents=[DocumentOut.model_validate(document) for document in page.documents],
        total=page.total,
        next_cursor=encode_cursor(same_query, *page.next) if page.next else None,
    )


@router.post("/facets", dependencies=[READ], responses=error_responses(404, *BODY_ERRORS), operation_id="count_facets")
async def facets(body: CountFacets, services: ServicesDep, account: AccountDep) -> FacetCounts:
    """The most frequent values of a metadata key, of tags or of a text field, each with its number of documents.

    Each element of an array counts. Objects and long strings do not.
    """
    where = body.filter.to_core() if body.filter else None
    owner = account.resolve(body.account_name)
    found = await services.listing.facets(body.chat_bot_id, owner, where, body.key, body.limit)
    return FacetCounts(
        values=[FacetCount.model_validate(value) for value in found.values],
        other_values=found.other_values,
        other_documents=found.other_documents,
    )


@router.post(
    "/delete", dependencies=[WRITE], responses=error_responses(404, *BODY_ERRORS), operation_id="delete_by_filter"
)
async def delete(body: DeleteByFilter, services: ServicesDep, account: AccountDep) -> DeletedByFilter:
    """Deletes the documents that match a filter, in parts. After a 503 or a lost connection, send the call again."""
    timings = Stopwatch()
    owner = account.resolve(body.account_name)
    with timings.measure("postgres"):
        done = await services.by_filter.delete(
            body.chat_bot_id, owner, body.filter.to_core(), body.max_documents, dry_run=body.dry_run
        )
    return DeletedByFilter(
        matching_documents=done.matching,
        deleted_documents=len(done.chunks),
        deleted_chunks=sum(done.chunks.values()),
        postgres_time_ms=timings["postgres"],
        total_time_ms=timings.total,
    )


@router.patch(
    "/metadata", dependencies=[WRITE], responses=error_responses(404, *BODY_ERRORS), operation_id="patch_by_filter"
)
async def patch(body: PatchByFilter, services: ServicesDep, account: AccountDep, limits: LimitsDep) -> PatchedByFilter:
    """Changes the metadata of the documents that match a filter, in parts, each document once.

    After a 503 or a lost connection, send the call again.
    """
    timings = Stopwatch()
    fields, metadata = chosen_updates(body.metadata_updates)
    check_updates(metadata, limits)
    with timings.measure("postgres"):
        done = await services.by_filter.patch(
            body.chat_bot_id,
            account.resolve(body.account_name),
            body.filter.to_core(),
            fields,
            metadata,
            body.max_documents,
            limits.metadata_bytes,
            dry_run=body.dry_run,
        )
    return PatchedByFilter(
        status="partial" if done.too_large else "success",
        matching_documents=done.matching,
        changed_documents=len(done.changed),
        unchanged_documents=len(done.unchanged),
        too_large=list(done.too_large),
        postgres_time_ms=timings["postgres"],
        total_time_ms=timings.total,
    )
