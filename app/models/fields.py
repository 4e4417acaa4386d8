"""Field types that keep out what a store would choke on: NUL, lone surrogates, huge numbers, NaN, deep nesting.

What is compared (all but the text of chunks and queries) becomes NFC before its length is measured.
"""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticUseDefault, core_schema

from app.schemas.metadata import METADATA_BYTES, METADATA_DEPTH, metadata_bytes
from app.schemas.rows import MARKER_COLLECTION
from app.utils.unicode import CollidingKeys, blank, is_nfc, nfc, nfc_json

INT64_MAX = 2**63 - 1
INT32_MAX = 2**31 - 1
TITLE_CHARS = 512
FILE_PATH_CHARS = 2_048
FILE_TYPE_CHARS = 64
AUTHOR_CHARS = 256
TAG_CHARS = 128
TAGS_PER_DOCUMENT = 64
NAME_CHARS = 128
"""Of an account."""
TEXT_CHARS = 8_192
"""Longest text that is embedded, of a chunk or a query: nothing is ever cut."""
CHUNKS_PER_DOCUMENT = 65_536
DOCUMENTS_PER_BATCH = 1_000


def storable(text: str) -> str:
    """Refuses what PostgreSQL's text and UTF-8 cannot hold."""
    try:
        # Looking for NUL among bytes is ten times as fast as in a Korean string.
        if b"\x00" in text.encode():
            raise PydanticCustomError("nul_character", "contains a NUL character, which cannot be stored")
    except UnicodeEncodeError:
        raise PydanticCustomError("lone_surrogate", "contains a lone surrogate, which is no valid text") from None
    return text


def not_blank(text: str) -> str:
    if blank(text):
        raise PydanticCustomError("blank_text", "must hold more than white space")
    return text


def normalized(value: Any) -> Any:
    """A string in NFC, and everything else as it is."""
    return nfc(value) if isinstance(value, str) else value


def whole(value: Any) -> Any:
    """5.0 is 5, as in JSON Schema; neither true nor "5" is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def storable_json(value: Any) -> Any:
    """The JSON with all of its strings in NFC: the value itself where they are so already.

    Refuses what jsonb cannot hold, what is deeper than METADATA_DEPTH or larger than METADATA_BYTES, and an object two
    keys of which are equal in NFC. Looks at every value once.
    """
    size = 0
    every_nfc = True
    level = [value]
    for _ in range(METADATA_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if not is_nfc(item):
                    every_nfc, item = False, nfc(item)
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
            value = value if every_nfc else _normalized_json(value)
            # Counted by now: fewer than that, so that writing them costs little. None of them takes more than 30 bytes.
            if size > METADATA_BYTES // 30 and metadata_bytes(value) > METADATA_BYTES:
                raise PydanticCustomError("too_large", f"is larger than {METADATA_BYTES:,} bytes of JSON")
            return value
        level = below
    raise PydanticCustomError("too_deep", f"is nested deeper than {METADATA_DEPTH} levels")


def _normalized_json(value: Any) -> Any:
    try:
        return nfc_json(value)
    except CollidingKeys as exc:
        raise PydanticCustomError(
            "colliding_keys", "holds the key {key} twice: the two are the same letters in Unicode", {"key": exc.key}
        ) from None


def not_blank_text(text: str) -> str:
    return not_blank(storable(text))


class NullIsDefault:
    """Of a request's optional field: null counts as left out. The last of a type's annotations."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_given, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _given(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


Storable = AfterValidator(storable)
NonBlank = AfterValidator(not_blank_text)
Normalized = BeforeValidator(normalized)
"""The last of a type's annotations, so that it runs first."""

Title = Annotated[str, Field(min_length=1, max_length=TITLE_CHARS), NonBlank, Normalized]
FilePath = Annotated[str, Field(max_length=FILE_PATH_CHARS), Storable, Normalized]
FileType = Annotated[str, Field(max_length=FILE_TYPE_CHARS), Storable, Normalized]
Author = Annotated[str, Field(max_length=AUTHOR_CHARS), Storable, Normalized]
Tag = Annotated[str, Field(min_length=1, max_length=TAG_CHARS), NonBlank, Normalized]
Tags = Annotated[list[Tag], Field(max_length=TAGS_PER_DOCUMENT)]
Metadata = Annotated[dict[str, Any], AfterValidator(storable_json)]


def _not_the_markers(name: str) -> str:
    if name.lower() == MARKER_COLLECTION:
        raise ValueError("is a collection of the server's own")
    return name


BotName = Annotated[str, Field(min_length=1, max_length=255), NonBlank, Normalized]
AccountName = Annotated[str, Field(min_length=1, max_length=NAME_CHARS), NonBlank, Normalized]
ChunkText = Annotated[str, Field(min_length=1, max_length=TEXT_CHARS), NonBlank]
QueryText = Annotated[str, Field(min_length=1, max_length=TEXT_CHARS), NonBlank]
CollectionName = Annotated[
    str,
    Field(
        max_length=255,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Letters, digits and underscores, not beginning with a digit: Milvus's rule.",
    ),
    AfterValidator(_not_the_markers),
]
Whole = BeforeValidator(whole)
"""After a type's bounds: before them, they would have other names in the OpenAPI document."""
JsonInt = Annotated[int, Strict(), Whole]
DocId = Annotated[int, Strict(), Field(ge=1, le=INT64_MAX), Whole]

Milliseconds = float
