"""The tools of /mcp and of /mcp/{chat_bot_id}: arguments, what each calls in core, and its result."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from fastapi import Request
from pydantic import BaseModel, TypeAdapter

from app.api.auth import Account
from app.api.integrations.openai_ids import document_of
from app.api.limits import ConcurrencyLimiter, Limits, check_document, check_query
from app.api.search import confidence, run_query
from app.core.access.api_keys import Caller
from app.core.search.query import Query, Result
from app.core.services import Services
from app.models import mcp as models
from app.models.data import InsertDocument
from app.models.inserts import Insert
from app.schemas.operation_rows import Scope
from app.schemas.rows import Chunk, Document, SearchChunk
from app.utils.stopwatch import Stopwatch

CONNECTOR_RESULTS = 10
CONNECTOR_CHUNKS = 1_000
WEB = ("http://", "https://")


class Call:
    """A call of a tool: the request that carries it, and whose it is."""

    def __init__(self, request: Request, caller: Caller) -> None:
        self.request = request
        self.services: Services = request.state.services
        self.limits: Limits = request.state.limits
        self.account = Account(caller).resolve(None)

    @property
    def bot_id(self) -> UUID:
        """Of /mcp/{chat_bot_id}."""
        return UUID(self.request.path_params["chat_bot_id"])


@dataclass(frozen=True)
class Tool:
    """``run`` returns what ``output`` describes. It raises AppError."""

    scope: Scope
    description: str
    arguments: type[BaseModel]
    output: type
    run: Callable[[Call, Any], Awaitable[Mapping[str, Any]]]

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        return self.arguments.model_json_schema()

    @cached_property
    def output_schema(self) -> dict[str, Any]:
        return TypeAdapter(self.output).json_schema(mode="serialization")


async def _list_bots(call: Call, _: models.NoArguments) -> models.BotEntries:
    return {
        "bots": [
            {"chat_bot_id": str(bot.bot_id), "bot_name": bot.bot_name, "collection_name": bot.collection_name}
            for bot in (await call.services.bots.list(call.account)).bots
        ]
    }


async def _search(call: Call, given: models.SearchArguments) -> models.Passages:
    where = given.filter.to_core() if given.filter else None
    query = Query(given.chat_bot_id, call.account, [given.query], given.limit, mode=given.mode, where=where)
    return {"results": [_passage(result) for result in await _found(call, query)]}


async def _found(call: Call, query: Query) -> list[Result]:
    check_query(query.texts, call.limits)
    answer = await run_query(call.services, query, Stopwatch(), lambda _: "query")
    return answer.results[0]


def _passage(result: Result) -> models.Passage:
    chunk = result.chunk
    return {
        "doc_id": chunk.doc_id,
        "chunk_id": chunk.chunk_id,
        "title": chunk.title,
        "text": chunk.text,
        "score": confidence(result),
        "page_number": chunk.page_number,
        "metadata": chunk.metadata,
    }


async def _fetch(call: Call, given: models.FetchArguments) -> models.FetchedDocument:
    document, chunks, next_cursor = await call.services.documents.get(
        given.chat_bot_id, call.account, given.doc_id, given.cursor, given.limit
    )
    return {
        "doc_id": document.doc_id,
        "title": document.title,
        "file_path": document.file_path,
        "author": document.author,
        "tags": document.tags,
        "metadata": document.metadata,
        "created_at": document.created_at,
        "chunks": [_chunk(chunk) for chunk in chunks],
        "next_cursor": next_cursor,
    }


def _chunk(chunk: Chunk) -> models.FetchedChunk:
    return {"chunk_index": chunk.chunk_index, "text": chunk.text, "page_number": chunk.page_number}


async def _insert(call: Call, given: models.InsertArguments) -> models.Inserted:
    return await _inserted(call, given.chat_bot_id, given)


async def _insert_into_bot(call: Call, given: models.NewDocumentArguments) -> models.Inserted:
    return await _inserted(call, call.bot_id, given)


async def _inserted(call: Call, bot_id: UUID, given: models.NewDocumentArguments) -> models.Inserted:
    fields = given.model_dump(include={"title", "metadata", "tags", "file_path", "author"})
    chunks = [{"chunk_index": number, "text": text} for number, text in enumerate(given.texts)]
    body = Insert.of(InsertDocument.model_validate({"document": {"chat_bot_id": bot_id, **fields}, "chunks": chunks}))
    check_document(body, call.limits)
    writes: ConcurrencyLimiter = call.request.state.writes
    async with writes.slot(call.request, call.account):
        outcomes = await call.services.ingest.insert(bot_id, call.account, body.new_document(), Stopwatch())
    doc_id = outcomes[0].doc_id
    assert doc_id is not None
    return {"doc_id": doc_id, "chunks": len(chunks)}


async def _connector_search(call: Call, given: models.QueryArgument) -> models.ConnectorResults:
    query = Query(call.bot_id, call.account, [given.query], CONNECTOR_RESULTS, group_by_document=True)
    found = [result.chunk for result in await _found(call, query)]
    return {"results": [{"id": str(one.doc_id), "title": one.title, "url": _url(call, one)} for one in found]}


async def _connector_fetch(call: Call, given: models.IdArgument) -> models.ConnectorDocument:
    """The first CONNECTOR_CHUNKS chunks: a connector asks once."""
    document, chunks, more = await call.services.documents.get(
        call.bot_id, call.account, document_of(given.id), 0, CONNECTOR_CHUNKS
    )
    return {
        "id": str(document.doc_id),
        "title": document.title,
        "text": "\n\n".join(chunk.text for chunk in chunks),
        "url": _url(call, document),
        "metadata": {**document.metadata, **({"truncated": True} if more is not None else {})},
    }


def _url(call: Call, document: Document | SearchChunk) -> str:
    """The document's source if that is on the web, else the call of this server that reads it."""
    if document.file_path and document.file_path.startswith(WEB):
        return document.file_path
    return f"{call.request.base_url}data/document/{document.doc_id}?chat_bot_id={call.bot_id}"


TOOLS: Mapping[str, Tool] = {
    "list_bots": Tool(
        "read", "The bots whose documents can be searched.", models.NoArguments, models.BotEntries, _list_bots
    ),
    "search": Tool(
        "read",
        "Finds the passages of one bot's documents that fit a query best, best first. A score is between 0 and 1.",
        models.SearchArguments,
        models.Passages,
        _search,
    ),
    "fetch": Tool(
        "read", "Reads a document in passages, in order.", models.FetchArguments, models.FetchedDocument, _fetch
    ),
    "insert_document": Tool(
        "write",
        "Stores a new document. Searches find it from then on.",
        models.InsertArguments,
        models.Inserted,
        _insert,
    ),
}
BOT_TOOLS: Mapping[str, Tool] = {
    "search": Tool(
        "read",
        "Finds documents for a query, best first.",
        models.QueryArgument,
        models.ConnectorResults,
        _connector_search,
    ),
    "fetch": Tool("read", "Reads a document.", models.IdArgument, models.ConnectorDocument, _connector_fetch),
    "insert_document": Tool(
        "write",
        "Stores a new document. Searches find it from then on.",
        models.NewDocumentArguments,
        models.Inserted,
        _insert_into_bot,
    ),
}
