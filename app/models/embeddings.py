"""Request and response bodies of /v1/embeddings, as in OpenAI's API."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

from app.models.base import Request, Response
from app.models.fields import TEXT_CHARS, ChunkText, Integral, JsonInt, NullIsDefault, Storable

MAX_INPUTS = 2048
"""As in OpenAI's API."""
QUERY_TYPES = frozenset({"query", "search_query"})
InputType = Literal["query", "search_query", "document", "passage", "search_document"]
NEEDS_TEXT = (
    "must be text: token ids are specific to one model's tokenizer. LangChain sends text with "
    "OpenAIEmbeddings(check_embedding_ctx_length=False)"
)
Texts = Annotated[list[ChunkText], Field(min_length=1, max_length=MAX_INPUTS)]


def _texts(value: Any) -> Any:
    """A list of texts, from one text or several. Rejects arrays of token ids with an error that explains them."""
    if isinstance(value, str):
        return [value]
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, (int, list)):
        raise PydanticCustomError("token_array", NEEDS_TEXT)
    return value


class EmbeddingsRequest(Request):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "use-multilingual",
                    "input": ["광화문은 경복궁의 남쪽 정문이다.", "경복궁은 화요일에 문을 닫는다."],
                }
            ]
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=512)] = Field(
        description="The server's embedding_model, or its part before a colon or an @."
    )
    input: Annotated[Texts, BeforeValidator(_texts, json_schema_input_type=ChunkText | Texts)] = Field(
        description="One text or several."
    )
    encoding_format: Annotated[Literal["float", "base64"], NullIsDefault()] = Field(
        "float", description="base64 encodes little-endian float32 numbers."
    )
    dimensions: Annotated[int, Strict(), Field(ge=1), Integral] | None = Field(
        None, description="Optional. Must be the dimension of the model."
    )
    input_type: InputType | None = Field(
        None, description="The kind of texts: queries (query, search_query) or chunks of documents (all other values)."
    )
    prefix: Annotated[str, Field(max_length=TEXT_CHARS), Storable] | None = Field(
        None, description="Prepended to each text."
    )
    truncate_prompt_tokens: JsonInt | None = Field(
        None, description="Has no effect. A setting of the server says how long texts are embedded."
    )
    user: str | None = Field(None, description="Has no effect.")

    def texts(self) -> list[str]:
        """The texts to embed."""
        return [self.prefix + text for text in self.input] if self.prefix else self.input


class Embedding(Response):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Response):
    prompt_tokens: int = Field(description="Number of characters, since not all models count tokens.")
    total_tokens: int


class EmbeddingsAnswer(Response):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = Field(description="The server's full embedding_model.")
    usage: Usage
