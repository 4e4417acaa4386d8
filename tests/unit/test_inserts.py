"""The structures that bodies are read into take nothing that the models refuse, and hold the same."""

import copy
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from app.models.data import InsertBatch, InsertDocument
from app.models.fields import DOCUMENTS_PER_BATCH, TAGS_PER_DOCUMENT, TEXT_CHARS, TITLE_CHARS
from app.models.inserts import Insert, InsertMany

BOT = UUID(int=2**127 + 7)
ITEM = {
    "document": {
        "chat_bot_id": str(BOT), "title": "제목", "file_path": "p", "file_type": "txt", "author": "a",
        "tags": ["x", "y"], "metadata": {"key": "value", "list": [1, 2.5, None, True], "nested": {"a": "b"}},
    },
    "chunks": [
        {"chunk_index": 0, "text": "경복궁", "page_number": 1},
        {"chunk_index": 2, "text": "광화문", "page_number": None},
        {"chunk_index": 1, "text": "한강"},
    ],
}  # fmt: skip
INSERT: dict[str, Any] = {"account_name": "chatty", **ITEM}
MANY: dict[str, Any] = {"account_name": "chatty", "documents": [ITEM, ITEM]}
GONE = object()
VALUES = [
    GONE, None, True, 0, 1, 2, -1, 65_536, 2**31, 2**63, -(2**63) - 1, 10**30, 1.0, 1.5, float("nan"), float("inf"), "",
    " ", "\u3000", "a\x00", "a\ud800", "1", "x" * 65, "x" * 129, "x" * 257, "x" * (TITLE_CHARS + 1), "한" * 2_049,
    "x" * (TEXT_CHARS + 1), str(BOT).upper(), BOT.hex, BOT.urn, f"{{{BOT}}}", [], {}, [ITEM],
    ["x"] * (TAGS_PER_DOCUMENT + 1), [""],
    ["a", 1], {"deep": [[[{}]]]}, {"": {"a\x00": 1}}, {"unknown": 1}, "한" * 30_000, ["x" * 20_000] * 4,
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all that stands in a body, and to one name in each object that does not."""
    if isinstance(value, dict):
        inner = [place for key, item in value.items() for place in places(item, (*at, key))]
        return [*inner, (*at, "unknown"), *([at] if at else [])]
    inner = (
        [place for index, item in enumerate(value) for place in places(item, (*at, index))]
        if isinstance(value, list)
        else []
    )
    return [*inner, at]


def changed(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The body, changed where there is still such a place."""
    *steps, last = place
    try:
        found = body
        for step in steps:
            found = found[step]
        if value is GONE:
            del found[last]
        else:
            found[last] = copy.deepcopy(value)
    except (KeyError, IndexError, TypeError):
        pass
    return body


def compare(model: type[BaseModel], struct: type[Insert | InsertMany], content: bytes) -> bool:
    """Whether the structure takes it. Fails if the model does not, or holds something else."""
    try:
        expected: Any = struct.of(model.model_validate(json.loads(content)))
    except ValidationError:
        expected = None
    read = struct.read(content)
    if read is not None:
        assert read == expected
        assert repr(read) == repr(expected)  # 1 is not 1.0, nor True.
    return read is not None


@pytest.mark.parametrize(
    ("model", "struct", "body"), [(InsertDocument, Insert, INSERT), (InsertBatch, InsertMany, MANY)]
)
def test_a_good_body_is_taken(model: type[BaseModel], struct: type[Insert | InsertMany], body: Any) -> None:
    assert compare(model, struct, json.dumps(body).encode())
    assert compare(model, struct, json.dumps(body, ensure_ascii=False, indent=1).encode())


def test_null_is_left_out_without_the_models() -> None:
    body = copy.deepcopy(MANY)
    names = ("file_path", "file_type", "author", "tags", "metadata")
    body["account_name"] = None
    body["documents"][0]["document"] |= dict.fromkeys(names)
    assert compare(InsertBatch, InsertMany, json.dumps(body).encode())
    read = InsertMany.read(json.dumps(body).encode())
    assert read is not None
    for name in names:
        del body["documents"][0]["document"][name]
    assert read == InsertMany.read(json.dumps(body).encode())


@pytest.mark.parametrize("place", places(INSERT), ids=lambda place: ".".join(map(str, place)))
def test_whatever_is_changed(place: tuple[Any, ...]) -> None:
    for value in VALUES:
        compare(InsertDocument, Insert, json.dumps(changed(copy.deepcopy(INSERT), place, value)).encode())


@given(st.lists(st.tuples(st.sampled_from(places(MANY)), st.sampled_from(VALUES)), max_size=3))
def test_several_changes_of_a_batch(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    body = copy.deepcopy(MANY)
    for place, value in changes:
        changed(body, place, value)
    compare(InsertBatch, InsertMany, json.dumps(body).encode())


def test_only_so_many_documents_and_chunks() -> None:
    one = {"document": {"chat_bot_id": str(BOT), "title": "t"}, "chunks": [{"chunk_index": 0, "text": "a"}]}
    most = json.dumps({"documents": [one] * DOCUMENTS_PER_BATCH}).encode()
    assert compare(InsertBatch, InsertMany, most)
    assert not compare(InsertBatch, InsertMany, json.dumps({"documents": [one] * (DOCUMENTS_PER_BATCH + 1)}).encode())
    long = {**one, "chunks": [{"chunk_index": index, "text": "a"} for index in range(65_536)]}
    assert compare(InsertBatch, InsertMany, json.dumps({"documents": [long]}).encode())
    assert not compare(InsertBatch, InsertMany, json.dumps({"documents": [long, one]}).encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b'{"documents":', b"\xff", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":"\xed\xa0\x80"}'],
)
def test_what_is_no_body_at_all(content: bytes) -> None:
    assert Insert.read(content) is None
    assert InsertMany.read(content) is None


def test_chunks_are_put_in_order() -> None:
    body = Insert.read(json.dumps(INSERT).encode())
    assert body is not None
    document = body.new_document()
    assert [(chunk.chunk_index, chunk.text) for chunk in document.chunks] == [(0, "경복궁"), (1, "한강"), (2, "광화문")]
    assert document.chunk_span == 3
