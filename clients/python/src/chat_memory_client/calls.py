"""The server's calls as data: what to send, and how to read the answer. Nothing here does input or output."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import UUID, uuid4

from chat_memory_client.models import Bot, Chunk, Document, Outcome, Result, StoredDocument

T = TypeVar("T")
BotId = str | UUID
PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """``gone``: the result if a repeated call finds that an earlier attempt has deleted it. ``tag``: adds the header
    ETag to the result."""

    method: str
    path: str
    read: Callable[[Any], T]
    json: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    gone: T | None = None
    tag: Callable[[T, str | None], T] | None = None


def _once() -> dict[str, str]:
    """A repeated insert is recognized by this key."""
    return {"Idempotency-Key": str(uuid4())}


def create_bot(name: str, collection_name: str, chat_bot_id: BotId | None) -> Call[Bot]:
    body = {"chat_bot_id": str(chat_bot_id or uuid4()), "bot_name": name, "collection_name": collection_name}
    return Call("POST", "/collection/create", _bot, body)


def list_bots() -> Call[list[Bot]]:
    return Call("GET", "/collection/list", lambda answer: [_bot(bot) for bot in answer["bots"]])


def delete_bot(chat_bot_id: BotId) -> Call[bool]:
    return Call("DELETE", f"/collection/{quote(str(chat_bot_id), safe='')}", lambda _: True, gone=True)


def insert(chat_bot_id: BotId, document: Document) -> Call[int]:
    return Call("POST", "/data/insert", _doc_id, _body(chat_bot_id, document), headers=_once())


def insert_batch(chat_bot_id: BotId, documents: Sequence[Document]) -> Call[list[Outcome]]:
    body = {"documents": [_body(chat_bot_id, document) for document in documents]}
    return Call("POST", "/data/insert/batch", _outcomes, body, headers=_once())


def replace(chat_bot_id: BotId, doc_id: int, document: Document, if_match: str | None) -> Call[int]:
    headers = {**_once(), **_if_match(if_match)}
    return Call("PUT", f"/data/document/{doc_id}", _doc_id, _body(chat_bot_id, document), headers=headers)


def patch_metadata(chat_bot_id: BotId, doc_id: int, updates: Mapping[str, Any], if_match: str | None) -> Call[int]:
    body = {"chat_bot_id": str(chat_bot_id), "metadata_updates": {"metadata": dict(updates)}}
    return Call("PATCH", f"/data/document/{doc_id}/metadata", _doc_id, body, headers=_if_match(if_match))


def delete_documents(chat_bot_id: BotId, doc_ids: Sequence[int]) -> Call[int]:
    """Reads the number of documents that were deleted."""
    body = {"chat_bot_id": str(chat_bot_id), "doc_ids": list(doc_ids)}
    return Call("POST", "/data/document/delete/batch", lambda answer: int(answer["deleted_documents"]), body)


def get_document(chat_bot_id: BotId, doc_id: int, cursor: str | None) -> Call[tuple[StoredDocument, str | None]]:
    params = _page(chat_bot_id, cursor)
    return Call("GET", f"/data/document/{doc_id}", _page_of_chunks, params=params, tag=_tagged)


def list_documents(chat_bot_id: BotId, cursor: str | None) -> Call[tuple[list[StoredDocument], str | None]]:
    return Call("GET", "/data/documents", _page_of_documents, params=_page(chat_bot_id, cursor))


def search(
    chat_bot_id: BotId, query: str, limit: int, filter: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> Call[list[Result]]:
    body = {"chat_bot_id": str(chat_bot_id), "query_text": query, "limit": limit, **options}
    if filter is not None:
        body["filter"] = filter
    return Call("POST", "/search/query", lambda answer: [_result(one) for one in answer["results"]], body)


def _if_match(etag: str | None) -> dict[str, str]:
    return {} if etag is None else {"If-Match": etag}


def _tagged(page: tuple[StoredDocument, str | None], etag: str | None) -> tuple[StoredDocument, str | None]:
    return dataclasses.replace(page[0], etag=etag), page[1]


def _page(chat_bot_id: BotId, cursor: str | None) -> dict[str, Any]:
    page = {"chat_bot_id": str(chat_bot_id), "limit": PAGE}
    return page if cursor is None else {**page, "cursor": cursor}


def _body(chat_bot_id: BotId, document: Document) -> dict[str, Any]:
    described = {
        "title": document.title,
        "file_path": document.file_path,
        "file_type": document.file_type,
        "author": document.author,
        "tags": list(document.tags),
        "metadata": dict(document.metadata),
    }
    pages = document.page_numbers or [None] * len(document.texts)
    chunks = [
        {"chunk_index": number, "text": text, "page_number": page}
        for number, (text, page) in enumerate(zip(document.texts, pages, strict=True))
    ]
    return {"document": {"chat_bot_id": str(chat_bot_id), **described}, "chunks": chunks}


def _bot(answer: Any) -> Bot:
    return Bot(**{one.name: answer[one.name] for one in fields(Bot)})


def _doc_id(answer: Any) -> int:
    return int(answer["doc_id"])


def _outcomes(answer: Any) -> list[Outcome]:
    return [
        Outcome(one["doc_id"], *((one["error"]["code"], one["error"]["detail"]) if one["error"] else ()))
        for one in answer["results"]
    ]


def _document(answer: Any, chunks: list[Chunk] | None = None) -> StoredDocument:
    known = {one.name: answer[one.name] for one in fields(StoredDocument) if one.name not in ("chunks", "etag")}
    times = {name: datetime.fromisoformat(known[name]) for name in ("created_at", "updated_at")}
    return StoredDocument(**{**known, **times}, chunks=chunks)


def _page_of_chunks(answer: Any) -> tuple[StoredDocument, str | None]:
    chunks = [Chunk(**{one.name: chunk[one.name] for one in fields(Chunk)}) for chunk in answer["chunks"]]
    return _document(answer["document"], chunks), answer["next_cursor"]


def _page_of_documents(answer: Any) -> tuple[list[StoredDocument], str | None]:
    return [_document(one) for one in answer["documents"]], answer["next_cursor"]


def _result(answer: dict[str, Any]) -> Result:
    return Result(
        doc_id=answer["doc_id"],
        chunk_id=answer["chunk_id"],
        chunk_index=answer["chunk_index"],
        text=answer["chunk_text"],
        score=answer["score"],
        dense_score=answer["dense_score"],
        lexical_score=answer["lexical_score"],
        confidence=answer.get("confidence"),
        page_number=answer["page_number"],
        title=answer["document"]["title"],
        metadata=answer["document"]["metadata"],
        raw=answer,
    )
