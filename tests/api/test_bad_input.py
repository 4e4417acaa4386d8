"""Whatever is wrong with a value in a body: a 422 problem that names its place, and nothing stored."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.rejections import HUGE, TOO_LARGE_FLOAT, FilledServer, put

NUL, LONE = "a\x00b", "a\ud800b"
NAN, INFINITE = float("nan"), float("-inf")


STRINGS = {
    "create": ["account_name", "chat_bot_id", "bot_name", "collection_name"],
    "insert": [
        "account_name", "document.chat_bot_id", "document.title", "document.file_path", "document.file_type",
        "document.author", "document.tags.0", "document.metadata.key", "chunks.1.text",
    ],
    "batch": ["account_name", "documents.0.document.title", "documents.0.chunks.1.text"],
    "put": ["document.title", "document.metadata.key", "chunks.0.text"],
    "patch": [
        "account_name", "chat_bot_id", "metadata_updates.title", "metadata_updates.file_path",
        "metadata_updates.file_type", "metadata_updates.author", "metadata_updates.tags.0", "metadata_updates.other",
    ],
    "delete": ["account_name", "chat_bot_id"],
    "search": ["account_name", "chat_bot_id", "query_text", "mode"],
    "search_batch": ["account_name", "chat_bot_id", "query_texts.1", "mode"],
}  # fmt: skip
# An error inside metadata names the whole object.
WHOLE = {"document.metadata.key": "document.metadata", "metadata_updates.other": "metadata_updates"}


def string_cases() -> Iterator[Any]:
    for call, paths in STRINGS.items():
        for path in paths:
            for name, value in {"nul": NUL, "lone": LONE, "number": 7, "null": None}.items():
                nullable = path in ("account_name", "metadata_updates.other", "mode")
                optional = path.rsplit(".", 1)[-1] in ("file_path", "file_type", "author")
                in_json = path in WHOLE
                if (name == "null" and (nullable or optional or in_json)) or (name == "number" and in_json):
                    continue
                yield pytest.param(call, path, value, id=f"{call}-{path}-{name}")


@pytest.mark.parametrize(("call", "path", "value"), list(string_cases()))
async def test_string_that_cannot_be_stored_is_rejected(server: FilledServer, call: str, path: str, value: Any) -> None:
    await server.assert_rejected(await server.send(call, put(path, value)), f"body.{WHOLE.get(path, path)}")


BLANK = {
    "create": ["account_name", "bot_name", "collection_name"],
    "insert": ["account_name", "document.title", "document.tags.0", "chunks.0.text"],
    "batch": ["documents.0.document.title", "documents.0.chunks.1.text"],
    "put": ["document.title", "chunks.1.text"],
    "patch": ["metadata_updates.title", "metadata_updates.tags.0"],
    "search": ["query_text", "account_name"],
}


@pytest.mark.parametrize("value", ["", " \t\n\u3000"], ids=["empty", "blank"])
@pytest.mark.parametrize(("call", "path"), [(call, path) for call, paths in BLANK.items() for path in paths])
async def test_empty_and_blank_text_is_rejected(server: FilledServer, call: str, path: str, value: str) -> None:
    await server.assert_rejected(await server.send(call, put(path, value)), f"body.{path}")


INTEGERS = {
    "create": ["dimension"],
    "insert": ["chunks.0.chunk_index", "chunks.0.page_number"],
    "put": ["chunks.1.chunk_index"],
    "delete": ["doc_ids.0"],
    "search": ["limit"],
}


@pytest.mark.parametrize("value", [HUGE, -HUGE - 1, 10**400, True, "1", 1.5, -1, NAN, TOO_LARGE_FLOAT], ids=str)
@pytest.mark.parametrize(("call", "path"), [(call, path) for call, paths in INTEGERS.items() for path in paths])
async def test_invalid_integer_is_rejected(server: FilledServer, call: str, path: str, value: Any) -> None:
    await server.assert_rejected(await server.send(call, put(path, value)), f"body.{path}")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


JSON_VALUES = {
    "huge": HUGE, "very_huge": 10**400, "low": -HUGE - 1, "nan": NAN, "infinite": INFINITE, "exponent": TOO_LARGE_FLOAT,
    "nul_key": {NUL: 1}, "lone_key": {LONE: 1}, "nul_deep": [{"a": [NUL]}], "deep": nested(40), "large": "x" * 70_000,
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_VALUES)
@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("insert", "document.metadata.key"),
        ("batch", "documents.0.document.metadata.key"),
        ("put", "document.metadata.key"),
        ("patch", "metadata_updates.other"),
        ("search", "filter"),
    ],
)
async def test_value_that_jsonb_cannot_hold_is_rejected(server: FilledServer, call: str, path: str, name: str) -> None:
    value = JSON_VALUES[name]
    if call == "search":
        value = {"type": "eq", "key": "metadata.key", "value": value}
    loc = path.removesuffix(".key").removesuffix(".other")
    await server.assert_rejected(await server.send(call, put(path, value)), f"body.{loc}")


@pytest.mark.parametrize("key", [NUL, LONE])
@pytest.mark.parametrize(("call", "path"), [("insert", "document.metadata"), ("patch", "metadata_updates")])
async def test_metadata_key_that_cannot_be_stored_is_rejected(
    server: FilledServer, call: str, path: str, key: str
) -> None:
    await server.assert_rejected(await server.send(call, put(path, {key: 1})), f"body.{path}")


@pytest.mark.parametrize("name", ["unknown", NUL, LONE], ids=["unknown", "nul", "lone"])
@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("create", ""), ("insert", ""), ("insert", "document."), ("insert", "chunks.0."), ("batch", ""), ("put", ""),
        ("batch", "documents.0."), ("patch", ""), ("delete", ""), ("search", ""),
    ],
)  # fmt: skip
async def test_unknown_field_is_rejected(server: FilledServer, call: str, path: str, name: str) -> None:
    await server.assert_rejected(await server.send(call, put(path + name, 1)), f"body.{path}".removesuffix("."))


@pytest.mark.parametrize(
    ("call", "path", "value"),
    [
        ("insert", "document.title", "x" * 513),
        ("put", "document.title", "x" * 513),
        ("patch", "metadata_updates.title", "x" * 513),
        ("patch", "metadata_updates.title", None),
        ("patch", "metadata_updates", {}),
        ("patch", "metadata_updates", []),
        ("insert", "document.chat_bot_id", "no-uuid"),
        ("insert", "document.chat_bot_id", 10**400),
        ("search", "chat_bot_id", "no-uuid"),
        ("create", "chat_bot_id", "no-uuid"),
        ("create", "dimension", 0),
        ("create", "dimension", 63),
        ("create", "collection_name", "1c"),
        ("create", "collection_name", "c-d"),
        ("create", "collection_name", "c\n"),
        ("create", "collection_name", "한국"),
        ("create", "collection_name", "c" * 256),
        ("insert", "document", None),
        ("insert", "document.tags", "x"),
        ("insert", "document.tags", ["x"] * 65),
        ("insert", "document.metadata", []),
        ("insert", "chunks", []),
        ("insert", "chunks", None),
        ("insert", "chunks", {}),
        ("put", "chunks", []),
        ("batch", "documents", []),
        ("batch", "documents.0.chunks", []),
        ("insert", "chunks.1.chunk_index", 0),
        ("insert", "chunks.1.chunk_index", -1),
        ("insert", "chunks.1.chunk_index", 65_536),
        ("insert", "chunks.0.page_number", 2**31),
        ("insert", "chunks.0.text", "x" * 8_193),
        ("delete", "doc_ids", []),
        ("delete", "doc_ids", [0]),
        ("delete", "doc_ids", [1] * 10_001),
        ("search", "limit", 0),
        ("search", "limit", 10_001),
        ("search", "query_text", "x" * 8_193),
        ("search", "mode", "sparse"),
        ("search", "dense_weight", 1.5),
        ("search", "dense_weight", NAN),
        ("search", "group_by_document", "yes"),
        ("search", "context_chunks", 21),
        ("search", "rerank", 1),
        ("search_batch", "query_texts", []),
        ("search_batch", "query_texts", "q"),
        ("search_batch", "query_texts", ["q"] * 65),
        ("search_batch", "query_texts.0", "x" * 8_193),
        ("search", "score_threshold", NAN),
        ("search", "score_threshold", INFINITE),
        ("search", "score_threshold", TOO_LARGE_FLOAT),
        ("search", "score_threshold", 10**400),
        ("search", "score_threshold", 1.1),
        ("search", "score_threshold", True),
        ("search", "score_threshold", "0.5"),
        ("search", "filter", {"type": "eq", "key": "metadata.a"}),
        ("search", "filter", {"type": "eq", "key": "chunk_count", "value": 1}),
        ("search", "filter", {"type": "eq", "key": f"metadata.{LONE}", "value": 1}),
        ("search", "filter", {"type": LONE, "key": "metadata.a", "value": 1}),
        ("search", "filter", {"type": "gt", "key": "doc_id", "value": HUGE}),
        ("search", "filter", {"type": "and", "filters": []}),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
async def test_invalid_value_is_rejected(server: FilledServer, call: str, path: str, value: Any) -> None:
    loc = f"body.{path}"
    if path == "chunks.1.chunk_index" and value == 0:
        loc = "body.chunks"
    await server.assert_rejected(await server.send(call, put(path, value)), loc)
