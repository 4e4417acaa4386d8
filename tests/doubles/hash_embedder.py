"""An embedder without a model: deterministic, fast, similar for texts that share letters."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from app.core.embedding.port import Vectors


class HashEmbedder:
    """Signed feature hashing of character n-grams (Weinberger et al. 2009, arXiv:0902.2206), at unit length."""

    model = "hash"
    call_texts = 1

    def __init__(self, dimension: int = 64) -> None:
        self.dimension = dimension

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            self._fill(vector, text)
        return vectors

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self.embed_documents(texts)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def _fill(self, vector: Vectors, text: str) -> None:
        padded = f" {text.lower()} "
        for size in (1, 2, 3):
            for start in range(len(padded) - size + 1):
                number = crc32(padded[start : start + size].encode("utf-8", "surrogatepass"))
                vector[number % self.dimension] += 1 if number >> 31 else -1
        length = np.linalg.norm(vector)
        if length:
            vector /= length
        else:  # All n-grams cancelled out.
            vector[0] = 1
