"""Request and response bodies of /data/documents: documents by filter."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, Strict
from pydantic_core import PydanticCustomError

from app.models.base import Request, Response
from app.models.collection import EXAMPLE_BOT
from app.models.data import DeleteTimes, DocumentOut, MetadataUpdates
from app.models.fields import CURSOR_CHARS, AccountName, Integral, NullIsDefault
from app.models.filter_values import kind_of
from app.models.filters import BoundedFilter, Filter, FilterKey
from app.schemas.filter_tree import references_chunks
from app.schemas.listing import FACET_CHARS, FacetKey, SortKey

MAX_PAGE = 1_000
MAX_BY_FILTER = 100_000
"""Most documents that one call may change. Their ids are kept in memory."""
EXAMPLE_FILTER: dict[str, JsonValue] = {"type": "contains", "key": "tags", "value": "seoul"}


def _of_documents(filter: Filter) -> Filter:
    if references_chunks(filter.to_core()):
        raise PydanticCustomError("filter_of_chunks", "tests page_number, which belongs to chunks, not to documents")
    return filter


DocumentFilter = Annotated[BoundedFilter, AfterValidator(_of_documents)]
"""A filter that passes or fails whole documents."""
FILTER = Field(None, description="As in searches, without page_number. Default: all documents.")


class QueryDocuments(Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"chat_bot_id": EXAMPLE_BOT, "filter": EXAMPLE_FILTER, "sort": "created_at", "order": "desc"}]
        }
    )

    account_name: AccountName | None = None
    chat_bot_id: UUID
    filter: DocumentFilter | None = FILTER
    sort: Annotated[SortKey, NullIsDefault()] = Field(
        "doc_id", description="Text is in the order of its code points. Documents with equal values: by doc_id."
    )
    order: Annotated[Literal["asc", "desc"], NullIsDefault()] = "asc"
    limit: Annotated[int, Strict(), Field(ge=1, le=MAX_PAGE), Integral, NullIsDefault()] = Field(
        100, description="Maximum number of documents per page."
    )
    cursor: Annotated[str, Field(max_length=CURSOR_CHARS)] | None = Field(
        None, description="next_cursor of the previous page of the same query; leave it out for the first page."
    )
    total: Annotated[bool, Strict(), NullIsDefault()] = Field(False, description="Count all documents that match.")


class DocumentPage(Response):
    status: Literal["success"] = "success"
    documents: list[DocumentOut]
    total: int | None = Field(description="Number of all documents that match; null unless requested.")
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


def _countable(key: FacetKey) -> FacetKey:
    if kind_of(key) in ("time", "integer"):
        raise PydanticCustomError("facet_key", "its values are not counted: use tags, a text field or metadata.<name>")
    return key


class ByFilter(Request):
    account_name: AccountName | None = None
    chat_bot_id: UUID
    filter: DocumentFilter = Field(description="As in searches, without page_number.")
    max_documents: Annotated[int, Strict(), Field(ge=1, le=MAX_BY_FILTER), Integral] = Field(
        description="If more documents match, the answer is a 422 and nothing is done."
    )
    dry_run: Annotated[bool, Strict(), NullIsDefault()] = Field(False, description="Only count what matches.")


EXAMPLE_BY_FILTER: dict[str, JsonValue] = {
    "chat_bot_id": EXAMPLE_BOT,
    "filter": EXAMPLE_FILTER,
    "max_documents": 100,
    "dry_run": True,
}


class DeleteByFilter(ByFilter):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_BY_FILTER]})


class DeletedByFilter(DeleteTimes):
    status: Literal["success"] = "success"
    matching_documents: int = Field(description="Documents that matched at the beginning.")
    deleted_documents: int
    deleted_chunks: int


class PatchByFilter(ByFilter):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{**EXAMPLE_BY_FILTER, "metadata_updates": {"reviewed": True}}]}
    )

    metadata_updates: MetadataUpdates


class PatchedByFilter(DeleteTimes):
    status: Literal["success", "partial"] = Field(description="partial: some documents are in `too_large`.")
    matching_documents: int = Field(description="Documents that matched at the beginning.")
    changed_documents: int
    unchanged_documents: int = Field(description="Documents that had these values already.")
    too_large: list[int] = Field(
        description="doc_ids of documents that stay as they are, because their metadata would become too large."
    )


class CountFacets(Request):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"chat_bot_id": EXAMPLE_BOT, "key": "metadata.language", "limit": 10}]}
    )

    account_name: AccountName | None = None
    chat_bot_id: UUID
    key: Annotated[FilterKey, AfterValidator(_countable)] = Field(description="As in a filter.")
    filter: DocumentFilter | None = FILTER
    limit: Annotated[int, Strict(), Field(ge=1, le=MAX_PAGE), Integral, NullIsDefault()] = Field(
        10, description="Maximum number of values."
    )


class FacetCount(Response):
    value: str | int | float | bool | None = Field(
        description=f"Strings of up to {FACET_CHARS} characters are counted."
    )
    documents: int = Field(description="Number of documents that have this value.")


class FacetCounts(Response):
    status: Literal["success"] = "success"
    values: list[FacetCount] = Field(description="The most frequent first.")
    other_values: int = Field(description="Number of further values.")
    other_documents: int = Field(description="Sum of the numbers of documents of the further values.")
