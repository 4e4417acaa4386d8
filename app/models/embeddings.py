"""Bodies of /v1/embeddings, after OpenAI's."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.models.base import Request, Response
from app.models.fields import ChunkText, StrictInt

MAX_INPUTS = 2048
"""As at OpenAI."""
Texts = Annotated[list[ChunkText], Field(min_length=1, max_length=MAX_INPUTS)]


def _texts(value: Any) -> Any:
    """A list of texts from one text or several; arrays of token ids are named for what they are."""
    if isinstance(value, str):
        return [value]
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, (int, list)):
        raise PydanticCustomError("token_array", "must be text: arrays of tokens belong to one model's tokenizer")
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
        description="The server's embedding_model, or its beginning up to a colon or an @."
    )
    input: Annotated[Texts, BeforeValidator(_texts, json_schema_input_type=ChunkText | Texts)] = Field(
        description="One text or several; each is embedded as a document's chunk would be."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64 holds little-endian float32 numbers."
    )
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = Field(None, description="Must equal the model's, if given.")
    user: str | None = Field(None, description="Ignored.")


class Embedding(Response):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Response):
    prompt_tokens: int = Field(description="Characters: not every model here counts tokens.")
    total_tokens: int


class EmbeddingsAnswer(Response):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = Field(description="The server's whole embedding_model.")
    usage: Usage
