"""LangChain: a retriever and a vector store over one bot. The server embeds; no embedding model is needed here."""

from collections.abc import Iterable, Sequence
from typing import Any, Self
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict

from chat_memory_client.client import ChatMemory
from chat_memory_client.models import Document, Result

ID = "langchain_id"
"""The metadata key of a document's id in LangChain."""
MAX_IDS = 100


class ChatMemoryRetriever(BaseRetriever):
    """``filter`` and ``options`` as in ``ChatMemory.search``."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: ChatMemory
    chat_bot_id: str
    k: int = 5
    filter: dict[str, Any] | None = None
    options: dict[str, Any] = {}  # noqa: RUF012 - a field of Pydantic

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[LangChainDocument]:
        found = self.client.search(self.chat_bot_id, query, kwargs.get("k", self.k), self.filter, **self.options)
        return [_with_score(result) for result in found]


class ChatMemoryVectorStore(VectorStore):
    """Each LangChain document is a document with one chunk.

    Two processes that add the same new id at the same moment may store it twice.
    """

    def __init__(self, client: ChatMemory, chat_bot_id: str) -> None:
        self._client = client
        self._bot = chat_bot_id

    @property
    def embeddings(self) -> Embeddings | None:
        return None

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Documents whose ids exist are replaced. Returns the ids."""
        listed = list(texts)
        names = [given or str(uuid4()) for given in (ids or [""] * len(listed))]
        described = metadatas or [{} for _ in listed]
        known = {found.metadata[ID]: found.doc_id for found in self._find([name for name in ids or () if name])}
        new: dict[str, Document] = {}
        for name, text, metadata in zip(names, listed, described, strict=True):
            document = Document(_title(text, metadata), [text], {**metadata, ID: name})
            if name in known:
                self._client.replace(self._bot, known[name], document)
            else:
                new[name] = document
        outcomes = self._client.insert_many(self._bot, new.values())
        failed = [outcome.detail for outcome in outcomes if outcome.doc_id is None]
        if failed:
            raise ValueError(f"{len(failed)} of {len(outcomes)} documents were not stored: {failed[0]}")
        return names

    def add_documents(self, documents: list[LangChainDocument], **kwargs: Any) -> list[str]:
        ids = kwargs.pop("ids", None) or [document.id for document in documents]
        texts = [document.page_content for document in documents]
        return self.add_texts(texts, [document.metadata for document in documents], ids=ids, **kwargs)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Ids that do not exist are ignored. Without ids nothing is deleted."""
        doc_ids = [found.doc_id for found in self._find(ids or [])]
        if doc_ids:
            self._client.delete(self._bot, doc_ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        return [_document(found) for found in self._find(list(ids))]

    def similarity_search(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[LangChainDocument]:
        return [document for document, _ in self.similarity_search_with_score(query, k, filter, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[tuple[LangChainDocument, float]]:
        found = self._client.search(self._bot, query, k, filter, **kwargs)
        return [(_document(result), result.score) for result in found]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        client: ChatMemory | None = None,
        chat_bot_id: str = "",
        **kwargs: Any,
    ) -> Self:
        """``embedding`` is not used: the server embeds."""
        if client is None:
            raise ValueError("from_texts needs client= and chat_bot_id=")
        store = cls(client, chat_bot_id)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def _find(self, ids: list[str]) -> list[Result]:
        """The documents with these ids: a filtered search returns all that pass, if it cuts none by confidence."""
        options: dict[str, Any] = {"mode": "dense", "group_by_document": True, "min_confidence": 0}
        found = []
        for begin in range(0, len(ids), MAX_IDS):
            part = ids[begin : begin + MAX_IDS]
            condition = {"type": "in", "key": ["metadata", ID], "value": part}
            found += self._client.search(self._bot, ID, 10 * MAX_IDS, condition, **options)
        return found


def _title(text: str, metadata: dict[str, Any]) -> str:
    source = metadata.get("title") or metadata.get("source")
    return str(source or text.strip().partition("\n")[0])[:512] or "text"


def _document(result: Result) -> LangChainDocument:
    metadata = {key: value for key, value in result.metadata.items() if key != ID}
    name = result.metadata.get(ID) or str(result.doc_id)
    return LangChainDocument(id=name, page_content=result.text, metadata=metadata)


def _with_score(result: Result) -> LangChainDocument:
    document = _document(result)
    document.metadata |= {"score": result.score, "title": result.title, "doc_id": result.doc_id}
    return document
