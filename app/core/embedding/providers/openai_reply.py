"""Reads an answer of the embeddings API with the suspicion that gateways have earned."""

import json
from binascii import Error as Base64Error
from typing import Any

import numpy as np
import orjson
from pybase64 import b64decode

from app.core.embedding.port import Row, Rows, Vectors
from app.utils.errors import EmbeddingInvalid


def rows(content: bytes, count: int, dimension: int | None) -> Rows:
    """A row for each of the ``count`` texts that were sent, put in order by ``index``.

    A vector of another length than ``dimension`` (of any, with None), a null and a missing one is that text's error.
    When the places cannot be trusted (one twice, or beyond the texts), no text has a vector.
    """
    try:
        items = _items(_parsed(content))
        places = _places(items, count)
    except (KeyError, TypeError, ValueError) as exc:
        error = EmbeddingInvalid("The embedding provider's answer cannot be read.")
        error.__cause__ = exc
        return [error] * count
    if places == list(range(count)) and (vectors := _as_one(items, dimension)) is not None:
        return vectors
    found: list[Row] = [EmbeddingInvalid("The embedding provider left this text out.")] * count
    for place, item in zip(places, items, strict=True):
        found[place] = _row(item.get("embedding"), dimension)
    return found


def prompt_tokens(content: bytes) -> int | None:
    """How many tokens the provider says that it read, if it does."""
    try:
        usage = _parsed(content)["usage"]
        tokens = usage.get("prompt_tokens") or usage.get("total_tokens")
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return tokens if type(tokens) is int and tokens > 0 else None


def _items(answer: Any) -> list[dict[str, Any]]:
    """OpenAI's ``data``, or Cohere's ``embeddings`` by format, as such."""
    if "data" in answer:
        items: list[dict[str, Any]] = answer["data"]
        return items
    (vectors,) = [found for found in answer["embeddings"].values() if found]
    return [{"embedding": vector} for vector in vectors]


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)  # Takes NaN, which some servers write.


def _places(items: list[dict[str, Any]], count: int) -> list[int]:
    places = [item.get("index") for item in items]
    if places == [None] * count:
        return list(range(count))
    if len(set(places)) < len(places) or not all(type(p) is int and 0 <= p < count for p in places):
        raise ValueError(f"places {places[:10]}... of {count} texts")
    return places  # type: ignore[return-value]


def _as_one(items: list[dict[str, Any]], dimension: int | None) -> Vectors | None:
    """All vectors (n, dimension) at once, where each is base64 of that length: the usual answer."""
    try:
        raw = [b64decode(item["embedding"], validate=True) for item in items]
    except (Base64Error, KeyError, TypeError, ValueError):
        return None
    if dimension is None or any(len(one) != 4 * dimension for one in raw):
        return None
    return np.frombuffer(b"".join(raw), "<f4").reshape(len(raw), dimension).astype(np.float32)


def _row(embedding: Any, dimension: int | None) -> Row:
    """Floats, or base64 of little-endian float32 numbers."""
    if embedding is None:
        return EmbeddingInvalid("The embedding provider gave null for this text.")
    try:
        if isinstance(embedding, str):
            vector = np.frombuffer(b64decode(embedding, validate=True), dtype="<f4").astype(np.float32)
        else:
            vector = np.array(embedding, dtype=np.float32)
    except (Base64Error, ValueError, TypeError, OverflowError):
        return EmbeddingInvalid("The embedding provider's vector for this text cannot be read.")
    if vector.ndim != 1 or vector.size == 0 or dimension not in (None, vector.size):
        return EmbeddingInvalid(
            f"The embedding provider's vector for this text has the shape {vector.shape} instead of ({dimension},)."
        )
    return vector
