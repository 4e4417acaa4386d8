"""Batches: an invalid document does not stop the others, and its error names its place."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from tests.table.frame import FOUND, Call, Row, batch, containing, document, problem, search, titles

LIST = Call("GET", "/data/documents?chat_bot_id=<bot>")
URL = "/data/insert/batch"
OTHER = str(UUID(int=2**127 + 1))
JSON_ONLY = ("lone surrogate", "NUL as an escape")


def changed(path: str, value: Any) -> dict[str, Any]:
    """A good document, but for what stands at ``path``."""
    made = document("나쁜 문서", f"{FOUND} 하나", f"{FOUND} 둘", metadata={"a": 1})
    *steps, last = path.split(".")
    found: Any = made
    for step in steps:
        found = found[int(step) if isinstance(found, list) else step]
    if value is KeyError:
        del found[last]
    else:
        found[int(last) if isinstance(found, list) else last] = value
    return made


BAD: dict[str, tuple[str, Any, str, str]] = {
    # What is wrong: where, the value, the place that is named, a part of what is said.
    "blank chunk": ("chunks.1.text", " \n", "chunks.1.text", "more than white space"),
    "zero-width chunk": ("chunks.1.text", "\u200b", "chunks.1.text", "more than white space"),
    "NUL in a chunk": ("chunks.0.text", "a\x00", "chunks.0.text", "NUL"),
    "lone surrogate": ("chunks.0.text", "a\ud800", "chunks.0.text", ""),
    "8,193 characters": ("chunks.1.text", "x" * 8_193, "chunks.1.text", "at most 8192"),
    "chunk without text": ("chunks.0.text", KeyError, "chunks.0.text", "required"),
    "text that is a number": ("chunks.0.text", 7, "chunks.0.text", "valid string"),
    "no chunks": ("chunks", [], "chunks", "at least 1"),
    "chunk_index twice": ("chunks.1.chunk_index", 0, "chunks", "is used at positions 0 and 1"),
    "chunk_index too large": ("chunks.1.chunk_index", 65_536, "chunks.1.chunk_index", "less than 65536"),
    "unknown field": ("document.colour", "red", "document.colour", "not permitted"),
    "bot that is no UUID": ("document.chat_bot_id", "x", "document.chat_bot_id", "UUID"),
    "blank title": ("document.title", " ", "document.title", "more than white space"),
    "title too long": ("document.title", "x" * 513, "document.title", "at most 512"),
    "title that is null": ("document.title", None, "document.title", "valid string"),
    "title that is left out": ("document.title", KeyError, "document.title", "required"),
    "too many tags": ("document.tags", ["t"] * 65, "document.tags", "at most 64"),
    "NUL in a tag": ("document.tags", ["a\x00"], "document.tags.0", "NUL"),
    "metadata too large": ("document.metadata", {"a": "x" * 70_000}, "document.metadata", "larger than"),
    "metadata that is no object": ("document.metadata", [], "document.metadata", "dictionary"),
    "number beyond 64 bits": ("document.metadata.a", 2**63, "document.metadata", "64 bits"),
    "document that is null": ("document", None, "document", ""),
}
ANSWERED = {"title too long": "x" * 513, "title that is null": None, "title that is left out": None, "blank title": " ",
            "document that is null": None}  # fmt: skip
"""What is answered as the title where it is not the document's own."""
CHUNKS = {"no chunks": 0}


def results(*expected: dict[str, Any]) -> dict[str, Any]:
    return {"results": [{"index": index, **one} for index, one in enumerate(expected)]}


GOOD = {"success": True, "error": None}


def bad(name: str) -> dict[str, Any]:
    _, _, where, text = BAD[name]
    errors = [{"loc": f"body.documents.1.{where}", "msg": containing(text)}]
    error = {"code": "invalid_input", "detail": containing(f"body.documents.1.{where}: "), "errors": errors}
    title = ANSWERED.get(name, "나쁜 문서")
    return {"doc_id": None, "success": False, "title": title, "total_chunks": CHUNKS.get(name, 2), "error": error}


def partial(name: str) -> Row:
    path, value, _, _ = BAD[name]
    call = batch(document("하나"), changed(path, value), document("둘"))
    if name in JSON_ONLY:
        call = raw(call.body)
    counts = {"status": "partial", "total_documents": 3, "success_count": 2, "failure_count": 1, "total_chunks": 2}
    return Row("batch", name, call, 200, counts | results(GOOD, bad(name), GOOD),
               then=[(search(), 200, titles("하나", "둘"))])  # fmt: skip


def raw(body: Any, **headers: str) -> Call:
    """With escapes, as lone surrogates need."""
    return Call("POST", URL, content=json.dumps(body).encode(), headers=headers)


def all_bad(name: str, *names: str) -> Row:
    documents = [changed(*BAD[one][:2]) for one in names]
    places = [(f"body.documents.{index}.{BAD[one][2]}", BAD[one][3]) for index, one in enumerate(names)]
    return Row("batch", name, raw({"documents": documents}), 422, problem("invalid_input", *places),
               then=[(LIST, 200, {"documents": []})])  # fmt: skip


def whole(name: str, body: Any, place: str, text: str) -> Row:
    """What is wrong with a batch as a whole stores nothing."""
    return Row("batch", name, Call("POST", URL, body), 422, problem("invalid_input", (place, text)),
               then=[(LIST, 200, {"documents": []})])  # fmt: skip


KEY = {"Idempotency-Key": "<row>"}
MIXED = batch(document("하나"), changed("chunks.1.text", " "), **KEY)
BLANK_ALONE = batch(changed("chunks.1.text", " "), **KEY)
ERROR = {"code": "invalid_input", "errors": [{"loc": "body.documents.1.chunks.1.text"}]}


def one_document(answer: Any) -> str | None:
    return None if len(answer["documents"]) == 1 else f"{len(answer['documents'])} documents"


def same_as_first() -> tuple[Callable[[Any], str | None], Callable[[Any], str | None]]:
    seen: list[Any] = []

    def first(answer: Any) -> str | None:
        seen[:] = [answer]
        return None

    return first, lambda answer: None if [answer] == seen else f"{answer}, not {seen}"


FIRST, AGAIN = same_as_first()

ROWS: list[Row] = [
    *map(partial, BAD),
    all_bad("a bad one alone", "blank chunk"),
    all_bad("all bad alike", "8,193 characters", "8,193 characters"),
    all_bad("all bad, each otherwise", "NUL in a chunk", "title too long", "metadata too large"),
    Row("batch", "good, bad and an unknown bot",
        batch(document("하나"), changed("chunks.1.text", ""), changed("document.chat_bot_id", OTHER)), 200,
        {"status": "partial"} | results(GOOD, {"error": ERROR},
                                        {"error": {"code": "bot_not_found",
                                                   "errors": [{"loc": "body.documents.2"}]}})),
    Row("batch", "bad and an unknown bot", batch(changed("document.chat_bot_id", OTHER), changed("chunks.1.text", "")),
        200, {"status": "failed"} | results({"error": {"code": "bot_not_found"}}, {"error": ERROR})),
    Row("batch", "a document that is a string", Call("POST", URL, {"documents": [document("하나"), "x"]}), 200,
        {"status": "partial"} | results(GOOD, {"title": None, "total_chunks": 0,
                                               "error": {"errors": [{"loc": "body.documents.1"}]}})),
    Row("batch", "with a key, sent again", MIXED, 200, FIRST, then=[(MIXED, 200, AGAIN), (LIST, 200, one_document)]),
    Row("batch", "a key of a batch that was all bad is free", BLANK_ALONE, 422, problem("invalid_input"),
        then=[(batch(document("하나"), **KEY), 200, {"status": "success"}), (LIST, 200, one_document)]),
    whole("no documents", {"documents": []}, "body.documents", "at least 1"),
    whole("unknown field of the batch", {"documents": [document()], "dry": True}, "body.dry", "not permitted"),
    whole("documents that are an object", {"documents": document()}, "body.documents", "valid list"),
    whole("1,001 documents", {"documents": [document()] * 1_001}, "body.documents", "at most 1000"),
    whole("account that is blank", {"documents": [document()], "account_name": "\u3164"}, "body.account_name", "white"),
    Row("batch", "invalid UTF-8", Call("POST", URL, content=b'{"documents": ["\xb0\xa1"]}'), 400,
        problem("malformed_body")),
    Row("batch", "JSON that is cut off", Call("POST", URL, content=b'{"documents": ['), 400,
        problem("malformed_body")),
]  # fmt: skip
