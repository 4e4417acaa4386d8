"""Field types that reject values that a store cannot hold: NUL, lone surrogates, huge numbers, NaN, deep nesting.

Strings that are compared (all but the texts of chunks and queries) are put into NFC before their length is checked.
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
EXTERNAL_ID_CHARS = 512
NAME_CHARS = 128
"""Of an account name."""
TEXT_CHARS = 8_192
"""Maximum length of the text of a chunk or a query. Longer text is rejected, never cut."""
CHUNKS_PER_DOCUMENT = 65_536
DOCUMENTS_PER_BATCH = 1_000
CURSOR_CHARS = 8_192
"""Maximum length of a cursor. A title is at most 512 characters."""


def storable(text: str) -> str:
    """Rejects text that UTF-8 or PostgreSQL's type ``text`` cannot hold."""
    try:
        # A search for NUL in bytes is ten times as fast as in a Korean string.
        if b"\x00" in text.encode():
            raise PydanticCustomError("nul_character", "contains a NUL character, which cannot be stored")
    except UnicodeEncodeError:
        raise PydanticCustomError("lone_surrogate", "contains a lone surrogate, which is not valid text") from None
    return text


def not_blank(text: str) -> str:
    if blank(text):
        raise PydanticCustomError("blank_text", "must hold more than white space")
    return text


def normalized(value: Any) -> Any:
    """A string in NFC; any other value unchanged."""
    return nfc(value) if isinstance(value, str) else value


def integral(value: Any) -> Any:
    """The integer of a float without a fraction, as in JSON Schema: 5.0 is 5. Other values are unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def storable_json(value: Any) -> Any:
    """The JSON value with all strings in NFC; the same object if they are in NFC already.

    Rejects a value that jsonb cannot hold, that is deeper than METADATA_DEPTH or larger than METADATA_BYTES, or that
    has an object with two keys that are equal in NFC. Visits each value once.
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
                    raise PydanticCustomError("not_a_number", "holds NaN or an infinite number, which is not JSON")
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
            # ``size`` limits the number of values, and each takes at most 30 bytes, so serializing them is cheap.
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
            "colliding_keys", "holds the key {key} twice: both are the same text in Unicode's NFC", {"key": exc.key}
        ) from None


def not_blank_text(text: str) -> str:
    return not_blank(storable(text))


class NullIsDefault:
    """Annotation of an optional request field: null means the default. Must be the last annotation of a type."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_null_to_default, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"type": "null"}]}


def _null_to_default(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


Storable = AfterValidator(storable)
NonBlank = AfterValidator(not_blank_text)
Normalized = BeforeValidator(normalized)
"""Must be the last annotation of a type, since the last one runs first."""

Title = Annotated[str, Field(min_length=1, max_length=TITLE_CHARS), NonBlank, Normalized]
FilePath = Annotated[str, Field(max_length=FILE_PATH_CHARS), Storable, Normalized]
FileType = Annotated[str, Field(max_length=FILE_TYPE_CHARS), Storable, Normalized]
Author = Annotated[str, Field(max_length=AUTHOR_CHARS), Storable, Normalized]
ExternalId = Annotated[str, Field(min_length=1, max_length=EXTERNAL_ID_CHARS), NonBlank, Normalized]
Tag = Annotated[str, Field(min_length=1, max_length=TAG_CHARS), NonBlank, Normalized]
Tags = Annotated[list[Tag], Field(max_length=TAGS_PER_DOCUMENT)]
Metadata = Annotated[dict[str, Any], AfterValidator(storable_json)]


def _not_the_marker_collection(name: str) -> str:
    if name.lower() == MARKER_COLLECTION:
        raise ValueError("is reserved for the server")
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
        description="Letters, digits and underscores; the first character is not a digit (a rule of Milvus).",
    ),
    AfterValidator(_not_the_marker_collection),
]
Integral = BeforeValidator(integral)
"""Must follow a type's bounds. Otherwise the bounds have other names in the OpenAPI document."""
JsonInt = Annotated[int, Strict(), Integral]
DocId = Annotated[int, Strict(), Field(ge=1, le=INT64_MAX), Integral]

Milliseconds = float
