"""LlamaIndex: a retriever over one bot."""

from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from chat_memory_client.client import ChatMemory
from chat_memory_client.models import Result


class ChatMemoryRetriever(BaseRetriever):
    """``filter`` and ``options`` as in ``ChatMemory.search``."""

    def __init__(
        self,
        client: ChatMemory,
        chat_bot_id: str,
        *,
        similarity_top_k: int = 5,
        filter: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._client = client
        self._bot = chat_bot_id
        self._top_k = similarity_top_k
        self._filter = filter
        self._options = options

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._client.search(self._bot, query_bundle.query_str, self._top_k, self._filter, **self._options)
        return [_node(result) for result in found]


def _node(result: Result) -> NodeWithScore:
    metadata = {**result.metadata, "title": result.title, "doc_id": result.doc_id}
    node = TextNode(id_=str(result.chunk_id), text=result.text, metadata=metadata)
    return NodeWithScore(node=node, score=result.score)
