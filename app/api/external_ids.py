"""Routes of /data/document: documents by external_id.

It is a query parameter. An external_id is often a path or a URL, and proxies rewrite slashes and dots in a path.
"""

from collections.abc import Awaitable, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api import data
from app.api.auth import AccountDep
from app.api.conditions import ETAG, NOT_MODIFIED, PreconditionDep
from app.api.deps import READ, WRITE, AccountQuery, BotQuery, InsertBody, ServicesDep
from app.api.errors import BODY_ERRORS, COMMON_ERRORS, error_responses
from app.api.idempotency import ResponderDep, created_or_ok
from app.api.limits import LimitsDep, check_document
from app.core.write.idempotency import IdempotentRequest
from app.core.write.write import Outcome
from app.models.data import (
    EXAMPLE_EXTERNAL_ID,
    DocumentDeleted,
    DocumentDetail,
    DocumentInserted,
    MetadataPatched,
    PatchMetadata,
)
from app.models.fields import ExternalId
from app.utils.errors import InvalidInput
from app.utils.stopwatch import Stopwatch

router = APIRouter(prefix="/data/document", tags=["data"])

ExternalIdQuery = Annotated[
    ExternalId, Query(description="The document's external_id, percent-encoded.", examples=[EXAMPLE_EXTERNAL_ID])
]


@router.get(
    "",
    dependencies=[READ],
    response_model=DocumentDetail,
    responses={200: ETAG, 304: NOT_MODIFIED, **error_responses(404, 409, 412, *COMMON_ERRORS)},
    operation_id="get_document_by_external_id",
)
async def get(
    external_id: ExternalIdQuery,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    condition: PreconditionDep,
    response: Response,
    limit: data.ChunkPageSize = data.MAX_PAGE,
    cursor: data.Cursor = 0,
) -> DocumentDetail | Response:
    """A document and its chunks in order, as GET /data/document/{doc_id}."""
    doc_id = await services.documents.doc_id_of(bot_id, account, external_id)
    return await data.get(doc_id, bot_id, services, account, condition, response, limit, cursor)


@router.put(
    "",
    dependencies=[WRITE],
    response_model=DocumentInserted,
    responses={
        200: ETAG,
        201: {"model": DocumentInserted, **ETAG},
        **error_responses(404, 409, 412, 502, *BODY_ERRORS),
    },
    operation_id="put_document_by_external_id",
)
async def put(
    external_id: ExternalIdQuery,
    body: InsertBody,
    services: ServicesDep,
    account: AccountDep,
    limits: LimitsDep,
    condition: PreconditionDep,
    respond: ResponderDep,
) -> Response:
    """Stores a document under its external_id: creates it (201), or replaces the one that is there (200).

    With If-None-Match: * it only creates one. The body's document.external_id may be left out. A text that the replaced
    document had is not embedded again.
    """
    timings = Stopwatch()
    check_document(body, limits)
    data.check_no_option(body.on_conflict, data.PUT_REPLACES)
    if body.document.external_id not in (None, external_id):
        raise InvalidInput.at("body.document.external_id", "differs from the external_id of the query")
    bot_id, owner = body.document.chat_bot_id, account.resolve(body.account_name)
    document = body.new_document(external_id)

    def run(idempotent: IdempotentRequest | None) -> Awaitable[Sequence[Outcome]]:
        return services.ingest.insert(bot_id, owner, document, timings, idempotent, "replace", condition)

    def build(outcomes: Sequence[Outcome]) -> DocumentInserted:
        return data.inserted(outcomes[0], len(body.chunks), timings)

    return await respond(created_or_ok, owner, run, build)


@router.patch(
    "/metadata",
    dependencies=[WRITE],
    responses={200: ETAG, **error_responses(404, 412, *BODY_ERRORS)},
    operation_id="patch_document_metadata_by_external_id",
)
async def patch_metadata(
    external_id: ExternalIdQuery,
    body: PatchMetadata,
    services: ServicesDep,
    account: AccountDep,
    limits: LimitsDep,
    condition: PreconditionDep,
    response: Response,
) -> MetadataPatched:
    """Changes only metadata, as PATCH /data/document/{doc_id}/metadata."""
    owner = account.resolve(body.account_name)
    doc_id = await services.documents.doc_id_of(body.chat_bot_id, owner, external_id)
    return await data.patch_metadata(doc_id, body, services, account, limits, condition, response)


@router.delete(
    "",
    dependencies=[WRITE],
    responses=error_responses(404, 412, *COMMON_ERRORS),
    operation_id="delete_document_by_external_id",
)
async def delete(
    external_id: ExternalIdQuery,
    bot_id: BotQuery,
    services: ServicesDep,
    account: AccountQuery,
    condition: PreconditionDep,
) -> DocumentDeleted:
    """Deletes a document. No reader sees it after this response."""
    doc_id = await services.documents.doc_id_of(bot_id, account, external_id)
    return await data.delete(doc_id, bot_id, services, account, condition)
