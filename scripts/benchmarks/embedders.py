"""The embedders of the benchmarks: a fast one that hashes texts, and a bare client of a remote provider."""

from base64 import b64decode
from collections.abc import Sequence
from hashlib import shake_128

import numpy as np

from app.core.embedding.port import Embedder, Vectors
from app.core.embedding.providers.use_multilingual import UseMultilingual
from scripts.benchmarks.http import Connection

DIMENSION = 512
NAMES = ("hash", "+50ms", "use-multilingual")
DELAY_MS = 50


def hashed(texts: Sequence[str]) -> Vectors:
    """Vectors (len(texts), DIMENSION) of length 1 without meaning, in 4 microseconds each."""
    digests = b"".join(shake_128(text.encode()).digest(DIMENSION) for text in texts)
    vectors = np.frombuffer(digests, np.int8).astype(np.float32).reshape(-1, DIMENSION) + 0.5
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class Hashes:
    model = "hash"
    dimension = DIMENSION
    call_texts = 1

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return hashed(texts)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return hashed(texts)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        return None


class Remote:
    """The bare script's client of the provider, with a connection for each concurrent request."""

    model = "remote"
    dimension = DIMENSION
    call_texts = 2048

    def __init__(self, url: str) -> None:
        self._url = url
        self._free: list[Connection] = []

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        connection = self._free.pop() if self._free else await Connection.open(self._url)
        body = {"model": "stub", "input": list(texts), "encoding_format": "base64"}
        answer = await connection.call("POST", "/v1/embeddings", body)
        self._free.append(connection)
        raw = b"".join(b64decode(item["embedding"]) for item in answer["data"])
        return np.frombuffer(raw, "<f4").reshape(len(texts), DIMENSION)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self.embed_documents(texts)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        for connection in self._free:
            connection.close()


def bare_embedder(name: str, stub: str) -> Embedder:
    if name == "use-multilingual":
        return UseMultilingual()
    return Remote(stub) if name == "+50ms" else Hashes()
