"""Field types that keep out what a store would choke on: NUL, lone surrogates, huge numbers, NaN, deep nesting."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

from app.schemas.metadata import METADATA_BYTES, METADATA_DEPTH, metadata_bytes

INT64_MAX = 2**63 - 1
TEXT_CHARS = 8_192
"""Longest text that is embedded, of a chunk or a query: nothing is ever cut."""
CHUNKS_PER_DOCUMENT = 65_536
DOCUMENTS_PER_BATCH = 1_000


def storable(text: str) -> str:
    """Refuses what PostgreSQL's text and UTF-8 cannot hold."""
    if "\x00" in text:
        raise PydanticCustomError("nul_character", "contains a NUL character, which cannot be stored")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise PydanticCustomError("lone_surrogate", "contains a lone surrogate, which is no valid text") from None
    return text


def not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank_text", "must hold more than white space")
    return text


def whole(value: Any) -> Any:
    """5.0 is 5, as in JSON Schema; neither true nor "5" is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def storable_json(value: Any) -> Any:
    """Refuses JSON that jsonb cannot hold or that is deeper than METADATA_DEPTH; looks at every value once."""
    size = 0
    level = [value]
    for _ in range(METADATA_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                size += len(storable(item))
            elif isinstance(item, bool) or item is None:
                pass
            elif isinstance(item, int):
                if not -INT64_MAX - 1 <= item <= INT64_MAX:
                    raise PydanticCustomError("number_too_large", "holds an integer beyond 64 bits")
            elif isinstance(item, float):
                if not math.isfinite(item):
                    raise PydanticCustomError("not_a_number", "holds NaN or an infinite number, which JSON has not")
            elif isinstance(item, dict):
                below.extend(item.keys())
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            size += 1
        if size > METADATA_BYTES:
            raise PydanticCustomError("too_large", f"is larger than {METADATA_BYTES:,} bytes of JSON")
        if not below:
            # Counted by now: fewer characters than that, so that writing them costs little.
            if metadata_bytes(value) > METADATA_BYTES:
                raise PydanticCustomError("too_large", f"is larger than {METADATA_BYTES:,} bytes of JSON")
            return value
        level = below
    raise PydanticCustomError("too_deep", f"is nested deeper than {METADATA_DEPTH} levels")


Storable = AfterValidator(storable)
NotBlank = AfterValidator(not_blank)

Title = Annotated[str, Field(min_length=1, max_length=512), Storable, NotBlank]
FilePath = Annotated[str, Field(max_length=2048), Storable]
FileType = Annotated[str, Field(max_length=64), Storable]
Author = Annotated[str, Field(max_length=256), Storable]
Tag = Annotated[str, Field(min_length=1, max_length=128), Storable, NotBlank]
Tags = Annotated[list[Tag], Field(max_length=64)]
Metadata = Annotated[dict[str, Any], AfterValidator(storable_json)]
BotName = Annotated[str, Field(min_length=1, max_length=255), Storable, NotBlank]
AccountName = Annotated[str, Field(min_length=1, max_length=128), Storable, NotBlank]
ChunkText = Annotated[str, Field(min_length=1, max_length=TEXT_CHARS), Storable, NotBlank]
QueryText = Annotated[str, Field(min_length=1, max_length=TEXT_CHARS), Storable, NotBlank]
CollectionName = Annotated[
    str,
    Field(
        max_length=255,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Letters, digits and underscores, not beginning with a digit: Milvus's rule.",
    ),
]
Whole = BeforeValidator(whole)
StrictInt = Annotated[int, Strict(), Whole]
DocId = Annotated[int, Strict(), Whole, Field(ge=1, le=INT64_MAX)]

Milliseconds = float
