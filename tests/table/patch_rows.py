"""PATCH: what each key of ``metadata_updates`` changes."""

from typing import Any

from tests.table.frame import Row, get, insert, patch, problem, search, titles

NAMED = {"author": "m", "tags": ["m"], "title": "m", "metadata": {"title": 1}, "doc_id": 7, "other": 1}
"""Metadata with keys that are named like fields."""
GIVEN = [insert("t", author="a", tags=["x"], file_path="p", file_type="txt", metadata=NAMED)]
LOC = "body.metadata_updates"


def row(name: str, updates: Any, expected: dict[str, Any]) -> Row:
    """``expected``: what differs afterwards of the document as it was."""
    before = {"title": "t", "author": "a", "tags": ["x"], "file_path": "p", "file_type": "txt", "metadata": NAMED}

    def same(answer: Any) -> str | None:
        found = {key: answer["document"][key] for key in before}
        return None if found == before | expected else f"{found}"

    return Row("patch", name, patch(updates), 200, {"status": "success"}, GIVEN, [(get(), 200, same)])


def refused(name: str, updates: Any, text: str, loc: str = LOC) -> Row:
    unchanged = {"document": {"title": "t", "author": "a", "metadata": NAMED}}
    answer = problem("invalid_input", (loc, text))
    return Row("patch", name, patch(updates), 422, answer, GIVEN, [(get(), 200, unchanged)])


def without(*names: str) -> dict[str, Any]:
    return {"metadata": {key: value for key, value in NAMED.items() if key not in names}}


ROWS: list[Row] = [
    row("a field", {"author": "b"}, {"author": "b"}),
    row("a field is emptied", {"author": None, "tags": None}, {"author": None, "tags": []}),
    row("a key", {"other": 2}, {"metadata": NAMED | {"other": 2}}),
    row("a new key", {"new": [1]}, {"metadata": NAMED | {"new": [1]}}),
    row("a key is removed", {"other": None}, without("other")),
    row("the key author", {"metadata": {"author": "n"}}, {"metadata": NAMED | {"author": "n"}}),
    row("the key tags", {"metadata": {"tags": "n"}}, {"metadata": NAMED | {"tags": "n"}}),
    row("the key title is removed", {"metadata": {"title": None}}, without("title")),
    row("author and tags are removed", {"metadata": {"author": None, "tags": None}}, without("author", "tags")),
    row("the key metadata", {"metadata": {"metadata": 5}}, {"metadata": NAMED | {"metadata": 5}}),
    row("the key metadata is removed", {"metadata": {"metadata": None}}, without("metadata")),
    row("the key doc_id", {"metadata": {"doc_id": None, "created_at": "x"}},
        {"metadata": without("doc_id")["metadata"] | {"created_at": "x"}}),
    row("a field and the key of its name", {"author": "b", "metadata": {"author": "c"}},
        {"author": "b", "metadata": NAMED | {"author": "c"}}),
    row("an object takes the place of another", {"metadata": {"metadata": {"x": 1}}},
        {"metadata": NAMED | {"metadata": {"x": 1}}}),
    refused("doc_id", {"doc_id": 5}, "doc_id cannot be changed"),
    refused("created_at", {"created_at": "2025-01-01"}, "created_at cannot be changed"),
    refused("updated_at removed", {"updated_at": None}, "updated_at cannot be changed"),
    refused("chunk_count", {"chunk_count": 5, "other": 3}, 'goes into "metadata"'),
    refused("chat_bot_id", {"chat_bot_id": "<bot>"}, "chat_bot_id cannot be changed"),
    refused("metadata that is no object", {"metadata": "x"}, "valid dictionary", f"{LOC}.metadata"),
    refused("metadata that is null", {"metadata": None}, "valid dictionary", f"{LOC}.metadata"),
    refused("metadata that is empty", {"metadata": {}}, "nothing to update"),
    refused("a key twice", {"other": 1, "metadata": {"other": 2}}, "the metadata key other twice"),
    refused("a title that is emptied", {"title": None}, "valid string", f"{LOC}.title"),
    Row("patch", "the key author is found", search({"type": "eq", "key": "metadata.author", "value": "m"}), 200,
        titles("t"), GIVEN),
]  # fmt: skip
