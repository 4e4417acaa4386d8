"""Bodies of /v1/vector_stores, as in OpenAI's API: a vector store is a bot, and a file is a document.

Clients send null for what they leave out. Answers have members of our own beside OpenAI's.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

from app.models.attribute_filters import openai_filter
from app.models.base import Request
from app.models.fields import BotName, NullIsDefault, QueryText, storable_json
from app.models.search import MAX_QUERIES
from app.schemas import filter_tree as tree
from app.utils.errors import NotServed

ATTRIBUTES, ATTRIBUTE_KEY_CHARS, ATTRIBUTE_CHARS = 16, 64, 512
MAX_RESULTS = 50
DEFAULT_RESULTS = 10
DEFAULT_NAME = "vector store"
INSERT = "POST /data/insert stores a document of texts."

AttributeValue = Annotated[str, Field(max_length=ATTRIBUTE_CHARS)] | bool | int | float | None
Attributes = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=ATTRIBUTE_KEY_CHARS)], AttributeValue],
    Field(max_length=ATTRIBUTES),
    AfterValidator(storable_json),
]


def shown_attributes(metadata: dict[str, Any]) -> dict[str, str | int | float | bool]:
    """Those of the metadata that OpenAI's attributes can hold: the first 16 short strings, numbers and booleans."""
    fitting = (
        (key, value)
        for key, value in metadata.items()
        if isinstance(value, str | int | float)
        and len(key) <= ATTRIBUTE_KEY_CHARS
        and not (isinstance(value, str) and len(value) > ATTRIBUTE_CHARS)
    )
    return dict(pair for _, pair in zip(range(ATTRIBUTES), fitting, strict=False))


class _StoreBody(Request):
    name: BotName | None = None
    description: str | None = None
    metadata: dict[str, Any] | None = None
    expires_after: Any = None

    def check_served(self) -> None:
        """Raises NotServed for what a bot does not have."""
        if self.metadata:
            raise NotServed("A vector store has no metadata here. Files have: POST /v1/vector_stores/{id}/files/{id}.")
        if self.description:
            raise NotServed("A vector store has no description here, only a name.")
        if self.expires_after:
            raise NotServed("Vector stores do not expire here. DELETE /v1/vector_stores/{id} deletes one.")


class CreateStore(_StoreBody):
    file_ids: list[str] | None = None
    chunking_strategy: Any = Field(None, description="Ignored, as OpenAI does without file_ids.")

    def check_served(self) -> None:
        super().check_served()
        if self.file_ids:
            raise NotServed(f"This server takes no files. {INSERT}")


class ModifyStore(_StoreBody):
    pass


class ModifyFile(Request):
    attributes: Attributes | None = None


class RankingOptions(Request):
    ranker: str | None = Field(None, description="Ignored: this server ranks in its own way.")
    score_threshold: Annotated[float, Strict(), Field(ge=0, le=1), NullIsDefault()] = 0.0
    hybrid_search: Any = Field(None, description="Ignored, too.")


def _filter(value: Any) -> Any:
    if value is None:
        return None
    try:
        return openai_filter(value)
    except ValueError as exc:
        raise PydanticCustomError("filter", "{reason}", {"reason": str(exc)}) from None


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class SearchStore(Request):
    query: Annotated[list[QueryText], Field(min_length=1, max_length=MAX_QUERIES), BeforeValidator(_texts)]
    filters: Annotated[Any, BeforeValidator(_filter)] = None
    max_num_results: Annotated[int, Strict(), Field(ge=1, le=MAX_RESULTS), NullIsDefault()] = DEFAULT_RESULTS
    ranking_options: Annotated[RankingOptions, NullIsDefault()] = RankingOptions()
    rewrite_query: bool | None = Field(None, description="Ignored: the query is searched as it is.")

    @property
    def where(self) -> tree.Filter | None:
        where: tree.Filter | None = self.filters
        return where


Order = Literal["asc", "desc"]
FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]
