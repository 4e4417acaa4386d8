"""Parses responses of the embeddings API, without trusting gateways to keep to it."""

import json
from binascii import Error as Base64Error
from typing import Any

import numpy as np
import orjson
from pybase64 import b64decode

from app.core.embedding.port import TextResult, TextResults, Vectors
from app.utils.errors import EmbeddingInvalid


def parse_vectors(content: bytes, count: int, dimension: int | None) -> TextResults:
    """The results of the ``count`` texts that were sent, in their order.

    A null, a missing vector and one of another length than ``dimension`` (None: of any length) is that text's error. If
    the ``index`` fields are wrong (repeated, or out of range), every text gets an error.
    """
    try:
        items = _items(_parsed(content))
        indexes = _indexes(items, count)
    except (KeyError, TypeError, ValueError) as exc:
        error = EmbeddingInvalid("The embedding provider's answer cannot be read.")
        error.__cause__ = exc
        return [error] * count
    if indexes == list(range(count)) and (vectors := _as_array(items, dimension)) is not None:
        return vectors
    results: list[TextResult] = [EmbeddingInvalid("The embedding provider left this text out.")] * count
    for index, item in zip(indexes, items, strict=True):
        results[index] = _vector(item.get("embedding"), dimension)
    return results


def prompt_tokens(content: bytes) -> int | None:
    """The number of tokens that the provider says it read; None if it does not say."""
    try:
        usage = _parsed(content)["usage"]
        tokens = usage.get("prompt_tokens") or usage.get("total_tokens")
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return tokens if type(tokens) is int and tokens > 0 else None


def _items(response: Any) -> list[dict[str, Any]]:
    """OpenAI's ``data``, or Cohere's ``embeddings`` (a list for each encoding) in the same form."""
    if "data" in response:
        items: list[dict[str, Any]] = response["data"]
        return items
    (vectors,) = [found for found in response["embeddings"].values() if found]
    return [{"embedding": vector} for vector in vectors]


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)  # Accepts NaN, which some servers write.


def _indexes(items: list[dict[str, Any]], count: int) -> list[int]:
    """The ``index`` of each item; if none has one, their order."""
    indexes = [item.get("index") for item in items]
    if indexes == [None] * count:
        return list(range(count))
    if len(set(indexes)) < len(indexes) or not all(type(index) is int and 0 <= index < count for index in indexes):
        raise ValueError(f"indexes {indexes[:10]}... of {count} texts")
    return indexes  # type: ignore[return-value]


def _as_array(items: list[dict[str, Any]], dimension: int | None) -> Vectors | None:
    """The vectors (n, dimension) if each item has base64 of that length, as usual; else None."""
    try:
        raw = [b64decode(item["embedding"], validate=True) for item in items]
    except (Base64Error, KeyError, TypeError, ValueError):
        return None
    if dimension is None or any(len(each) != 4 * dimension for each in raw):
        return None
    return np.frombuffer(b"".join(raw), "<f4").reshape(len(raw), dimension).astype(np.float32)


def _vector(embedding: Any, dimension: int | None) -> TextResult:
    """The vector of one item: a list of numbers, or base64 of little-endian float32 numbers."""
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
