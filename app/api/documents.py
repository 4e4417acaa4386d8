"""Routes of /data/documents: documents by filter."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from app.api.auth import AccountDep
from app.api.cursors import decode_cursor, encode_cursor, read_integer, read_text, read_time
from app.api.deps import READ, ServicesDep
from app.api.errors import BODY_ERRORS, error_responses
from app.models.data import DocumentOut
from app.models.listing import CountFacets, DocumentPage, FacetCount, FacetCounts, QueryDocuments
from app.schemas.filters import COLUMNS, Kind
from app.schemas.listing import Order, Place

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
        readers = READERS[COLUMNS[body.sort].kind], read_integer
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
