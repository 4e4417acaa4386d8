"""Routes of /v1/vector_stores/{vector_store_id}/files, by OpenAI's API: a file is a document."""

from uuid import UUID

from fastapi import APIRouter

from app.api.auth import AccountDep
from app.api.data import MAX_PAGE
from app.api.deps import READ, WRITE, ServicesDep
from app.api.integrations.openai_ids import FilePath, StorePath, document_of, file_id, store_id
from app.api.integrations.vector_stores import Json, PageSize, list_of
from app.api.limits import LimitsDep, check_updates
from app.models.fields import INT64_MAX
from app.models.vector_stores import FileStatus, ModifyFile, Order, shown_attributes
from app.schemas.listing import Order as Direction
from app.schemas.listing import Place
from app.schemas.rows import Document
from app.utils.errors import AnswerTooLarge

router = APIRouter(prefix="/v1/vector_stores/{vector_store_id}/files", tags=["integrations"], include_in_schema=False)


@router.get("", dependencies=[READ])
async def list_files(
    bot_id: StorePath,
    services: ServicesDep,
    account: AccountDep,
    after: str | None = None,
    before: str | None = None,
    filter: FileStatus = "completed",
    limit: PageSize = 20,
    order: Order = "desc",
) -> Json:
    """Documents are listed by doc_id, which grows with the time of the insert. So a cursor may be deleted meanwhile."""
    owner = account.resolve(None)
    first, last = (before, after) if order == "desc" else (after, before)
    above = document_of(first) if first else 0
    below = document_of(last) if last else INT64_MAX
    # Upwards from `above`, unless the page is to begin or to end at `below`.
    upwards = (order == "asc") == (bool(after) or not before)
    begin = above if upwards else below
    direction = Direction("doc_id", descending=not upwards)
    found = await services.listing.page(bot_id, owner, None, direction, Place(begin, begin), limit + 1)
    within = [document for document in found.documents if above < document.doc_id < below]
    page = within[:limit] if upwards == (order == "asc") else within[:limit][::-1]
    if filter != "completed":  # Every document that can be seen is complete.
        return list_of([], has_more=False)
    return list_of([_file(bot_id, document) for document in page], has_more=len(within) > limit)


@router.get("/{file_id}", dependencies=[READ])
async def get_file(bot_id: StorePath, doc_id: FilePath, services: ServicesDep, account: AccountDep) -> Json:
    document, _, _ = await services.documents.get(bot_id, account.resolve(None), doc_id, 0, 1)
    return _file(bot_id, document)


@router.get("/{file_id}/content", dependencies=[READ])
async def get_content(bot_id: StorePath, doc_id: FilePath, services: ServicesDep, account: AccountDep) -> Json:
    """The texts of all chunks. Clients do not ask for a second page."""
    document, chunks, more = await services.documents.get(bot_id, account.resolve(None), doc_id, 0, MAX_PAGE)
    if more is not None:
        raise AnswerTooLarge(
            f"The file has {document.chunk_count:,} chunks. GET /data/document/{doc_id} returns more than {MAX_PAGE:,} "
            "in pages."
        )
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": chunk.text} for chunk in chunks],
        "has_more": False,
        "next_page": None,
        "file_id": file_id(doc_id),
        "filename": document.title,
        "attributes": shown_attributes(document.metadata),
    }


@router.post("/{file_id}", dependencies=[WRITE])
async def modify_file(
    bot_id: StorePath,
    doc_id: FilePath,
    body: ModifyFile,
    services: ServicesDep,
    account: AccountDep,
    limits: LimitsDep,
) -> Json:
    """Merges attributes into the metadata, so that what attributes cannot show is kept; null removes a key."""
    owner = account.resolve(None)
    if body.attributes:
        check_updates(body.attributes, limits, "body.attributes")
        await services.documents.patch(bot_id, owner, doc_id, {}, body.attributes, limits.metadata_bytes)
    document, _, _ = await services.documents.get(bot_id, owner, doc_id, 0, 1)
    return _file(bot_id, document)


@router.delete("/{file_id}", dependencies=[WRITE])
async def delete_file(bot_id: StorePath, doc_id: FilePath, services: ServicesDep, account: AccountDep) -> Json:
    """Deletes the document itself: there is no copy outside the vector store."""
    await services.documents.delete(bot_id, account.resolve(None), doc_id)
    return {"id": file_id(doc_id), "object": "vector_store.file.deleted", "deleted": True}


def _file(bot_id: UUID, document: Document) -> Json:
    return {
        "id": file_id(document.doc_id),
        "object": "vector_store.file",
        "created_at": int(document.created_at.timestamp()),
        "usage_bytes": 0,
        "vector_store_id": store_id(bot_id),
        "status": "completed",
        "last_error": None,
        "chunking_strategy": {"type": "other"},
        "attributes": shown_attributes(document.metadata),
        "filename": document.title,
        "metadata": document.metadata,
        "doc_id": document.doc_id,
        "chunk_count": document.chunk_count,
    }
