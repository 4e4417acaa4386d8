"""The clients: ``ChatMemory`` for synchronous and ``AsyncChatMemory`` for asynchronous programs."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from chat_memory_client import calls
from chat_memory_client.calls import BotId, Call
from chat_memory_client.errors import error_of
from chat_memory_client.models import Bot, Document, Outcome, Result, StoredDocument
from chat_memory_client.progress import counter
from chat_memory_client.retries import Retries

T = TypeVar("T")
TIMEOUT = 60.0
RETRIES = 4
BATCH = 100


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _read(call: Call[T], answer: httpx.Response, attempt: int) -> T:
    """Raises ChatMemoryError."""
    if answer.is_success:
        found = call.read(answer.json())
        return found if call.tag is None else call.tag(found, answer.headers.get("ETag"))
    if answer.status_code == 404 and attempt and call.gone is not None:
        return call.gone
    try:
        body = answer.json()
    except ValueError:
        body = None
    raise error_of(answer.status_code, body, answer.text)


def _batches(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch


class ChatMemory:
    """All methods raise ChatMemoryError, and httpx.TransportError if the server cannot be reached.

    ``url``: of the server, without a path. ``timeout``: seconds for each attempt. ``retries``: attempts after the
    first. ``http``: a client of httpx to use in place of a new one.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        http: httpx.Client | None = None,
    ) -> None:
        self._http = http or httpx.Client(base_url=url, headers=_headers(api_key), timeout=timeout)
        self._retries = Retries(retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def create_bot(self, name: str, collection_name: str, chat_bot_id: BotId | None = None) -> Bot:
        """Registers a bot. The same values again have no effect; without a ``chat_bot_id`` each call makes one."""
        return self._send(calls.create_bot(name, collection_name, chat_bot_id))

    def bots(self) -> list[Bot]:
        return self._send(calls.list_bots())

    def delete_bot(self, chat_bot_id: BotId) -> None:
        """Deletes the bot and its documents. Raises NotFound."""
        self._send(calls.delete_bot(chat_bot_id))

    def insert(self, chat_bot_id: BotId, document: Document) -> int:
        """Stores a document and returns its doc_id. Searches find it from then on."""
        return self._send(calls.insert(chat_bot_id, document))

    def insert_many(
        self, chat_bot_id: BotId, documents: Iterable[Document], *, batch: int = BATCH, progress: bool = False
    ) -> list[Outcome]:
        """Stores documents in batches; an outcome for each, in their order.

        One that cannot be stored does not stop the others. If a whole batch is refused, its error is raised.
        """
        outcomes: list[Outcome] = []
        with counter(documents, progress) as count:
            for part in _batches(documents, batch):
                outcomes += self._send(calls.insert_batch(chat_bot_id, part))
                count(len(part))
        return outcomes

    def replace(self, chat_bot_id: BotId, doc_id: int, document: Document, *, if_match: str | None = None) -> None:
        """Replaces a document. Readers see the old one or the new one, never a mix. Raises NotFound.

        ``if_match``: the ``etag`` that it must have. Raises PreconditionFailed if others have changed it since.
        """
        self._send(calls.replace(chat_bot_id, doc_id, document, if_match))

    def patch_metadata(
        self, chat_bot_id: BotId, doc_id: int, updates: Mapping[str, Any], *, if_match: str | None = None
    ) -> None:
        """Merges ``updates`` into the metadata; None removes a key. ``if_match`` as in ``replace``. Raises NotFound."""
        self._send(calls.patch_metadata(chat_bot_id, doc_id, updates, if_match))

    def delete(self, chat_bot_id: BotId, doc_ids: Sequence[int]) -> int:
        """Deletes those of the documents that exist, and returns their number."""
        return self._send(calls.delete_documents(chat_bot_id, doc_ids))

    def document(self, chat_bot_id: BotId, doc_id: int) -> StoredDocument:
        """A document with all of its chunks. Raises NotFound."""
        found, cursor = self._send(calls.get_document(chat_bot_id, doc_id, None))
        chunks = list(found.chunks or ())
        while cursor is not None:
            page, cursor = self._send(calls.get_document(chat_bot_id, doc_id, cursor))
            chunks += page.chunks or ()
        return replace(found, chunks=chunks)

    def documents(self, chat_bot_id: BotId) -> Iterator[StoredDocument]:
        """All documents in the order of their doc_id, without their chunks."""
        cursor: str | None = None
        while True:
            page, cursor = self._send(calls.list_documents(chat_bot_id, cursor))
            yield from page
            if cursor is None:
                return

    def search(
        self,
        chat_bot_id: BotId,
        query: str,
        limit: int = 5,
        filter: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Result]:
        """The best chunks, best first. ``options``: further fields of the call, such as ``mode`` or ``rerank``."""
        return self._send(calls.search(chat_bot_id, query, limit, filter, options))

    def _send(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            answer: httpx.Response | None = None
            failure: httpx.TransportError | None = None
            try:
                answer = self._http.request(
                    call.method, call.path, json=call.json, params=dict(call.params), headers=dict(call.headers)
                )
                delay = None if answer.is_success else self._retries.delay(attempt, answer)
            except httpx.TransportError as exc:
                failure, delay = exc, self._retries.delay(attempt, None)
            if delay is None:
                if answer is None:
                    assert failure is not None
                    raise failure
                return _read(call, answer, attempt)
            time.sleep(delay)
            attempt += 1


class AsyncChatMemory:
    """As ``ChatMemory``, with coroutines."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._http = http or httpx.AsyncClient(base_url=url, headers=_headers(api_key), timeout=timeout)
        self._retries = Retries(retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def create_bot(self, name: str, collection_name: str, chat_bot_id: BotId | None = None) -> Bot:
        return await self._send(calls.create_bot(name, collection_name, chat_bot_id))

    async def bots(self) -> list[Bot]:
        return await self._send(calls.list_bots())

    async def delete_bot(self, chat_bot_id: BotId) -> None:
        await self._send(calls.delete_bot(chat_bot_id))

    async def insert(self, chat_bot_id: BotId, document: Document) -> int:
        return await self._send(calls.insert(chat_bot_id, document))

    async def insert_many(
        self, chat_bot_id: BotId, documents: Iterable[Document], *, batch: int = BATCH, progress: bool = False
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        with counter(documents, progress) as count:
            for part in _batches(documents, batch):
                outcomes += await self._send(calls.insert_batch(chat_bot_id, part))
                count(len(part))
        return outcomes

    async def replace(
        self, chat_bot_id: BotId, doc_id: int, document: Document, *, if_match: str | None = None
    ) -> None:
        await self._send(calls.replace(chat_bot_id, doc_id, document, if_match))

    async def patch_metadata(
        self, chat_bot_id: BotId, doc_id: int, updates: Mapping[str, Any], *, if_match: str | None = None
    ) -> None:
        await self._send(calls.patch_metadata(chat_bot_id, doc_id, updates, if_match))

    async def delete(self, chat_bot_id: BotId, doc_ids: Sequence[int]) -> int:
        return await self._send(calls.delete_documents(chat_bot_id, doc_ids))

    async def document(self, chat_bot_id: BotId, doc_id: int) -> StoredDocument:
        found, cursor = await self._send(calls.get_document(chat_bot_id, doc_id, None))
        chunks = list(found.chunks or ())
        while cursor is not None:
            page, cursor = await self._send(calls.get_document(chat_bot_id, doc_id, cursor))
            chunks += page.chunks or ()
        return replace(found, chunks=chunks)

    async def documents(self, chat_bot_id: BotId) -> AsyncIterator[StoredDocument]:
        cursor: str | None = None
        while True:
            page, cursor = await self._send(calls.list_documents(chat_bot_id, cursor))
            for document in page:
                yield document
            if cursor is None:
                return

    async def search(
        self,
        chat_bot_id: BotId,
        query: str,
        limit: int = 5,
        filter: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Result]:
        return await self._send(calls.search(chat_bot_id, query, limit, filter, options))

    async def _send(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            answer: httpx.Response | None = None
            failure: httpx.TransportError | None = None
            try:
                answer = await self._http.request(
                    call.method, call.path, json=call.json, params=dict(call.params), headers=dict(call.headers)
                )
                delay = None if answer.is_success else self._retries.delay(attempt, answer)
            except httpx.TransportError as exc:
                failure, delay = exc, self._retries.delay(attempt, None)
            if delay is None:
                if answer is None:
                    assert failure is not None
                    raise failure
                return _read(call, answer, attempt)
            await asyncio.sleep(delay)
            attempt += 1
