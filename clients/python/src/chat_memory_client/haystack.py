"""Haystack: a retriever over one bot, as a component of a pipeline."""

from typing import Any

from haystack import Document, component

from chat_memory_client.client import ChatMemory


@component
class ChatMemoryRetriever:
    """``filters`` are this server's filters, as in ``ChatMemory.search``."""

    def __init__(self, client: ChatMemory, chat_bot_id: str, top_k: int = 5) -> None:
        self._client = client
        self._bot = chat_bot_id
        self._top_k = top_k

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        found = self._client.search(self._bot, query, top_k or self._top_k, filters)
        return {
            "documents": [
                Document(
                    id=str(result.chunk_id),
                    content=result.text,
                    meta={**result.metadata, "title": result.title, "doc_id": result.doc_id},
                    score=result.score,
                )
                for result in found
            ]
        }
