"""A hash embedder that writes down which texts were embedded."""

from collections.abc import Sequence

from app.core.embedding.port import Vectors
from tests.doubles.hash_embedder import HashEmbedder


class CountingEmbedder(HashEmbedder):
    """``embedded``: the texts of all calls, in their order. Questions are among them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded: list[str] = []

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        return await super().embed_documents(texts)
