"""Compares one answer with the model: it may show only what was current during the request, of one version and bot."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import httpx
import numpy as np

from app.core.embedding.port import Vectors
from tests.chaos.chunk_text import ChunkLabel, parse_chunk_text
from tests.chaos.model import Bot, Document, Violation
from tests.doubles.hash_embedder import HashEmbedder

_embedder = HashEmbedder()


@lru_cache(maxsize=20_000)
def embedding(text: str) -> Vectors:
    """The vector (dimension,) that the server must have stored for this text."""
    coroutine = _embedder.embed_queries([text])
    try:
        coroutine.send(None)
    except StopIteration as done:
        vector: Vectors = done.value[0]
        return vector
    raise AssertionError("the hash embedder never waits")


def check_document(document: Document, answer: httpx.Response, start: float, end: float) -> None:
    """The answer to GET of this document."""
    if answer.status_code == 404:
        if not document.content.saw(None, start, end):
            raise Violation(
                3, f"GET said of {document.history.name}, which was stored: {answer.text}", document.history
            )
        return
    body = answer.json()
    texts = [chunk["text"] for chunk in body["chunks"]]
    if not texts:
        raise Violation(3, f"GET showed {document.history.name} without chunks", document.history)
    first = _label(document.bot, texts[0])
    if first.label != document.label:
        raise Violation(4, f"GET of {document.history.name} showed {texts[0]!r}", document.history)
    versions = document.with_texts(texts)
    if not versions:
        raise Violation(2, f"GET of {document.history.name} showed {texts}, not one whole version", document.history)
    _check_current(document, versions, start, end, "GET")
    titles = [document.titles[version] for version in versions]
    if body["document"]["title"] not in titles or body["chunk_count"] != len(texts):
        raise Violation(2, f"GET of {document.history.name}: chunks and row differ: {body}", document.history)
    _check_patch(document, body["document"]["metadata"], start, end)


def check_results(
    bot: Bot, answer: httpx.Response, text: str, sought: Document | None, start: float, end: float
) -> None:
    """The answer to a search in this bot for ``text``, a chunk of ``sought`` if that is given."""
    if answer.status_code == 404:
        if not bot.exists.saw(None, start, end):
            raise Violation(3, f"a search said 404 of {bot.history.name}, which exists", bot.history)
        return
    if not bot.exists.saw(True, start, end):
        raise Violation(7, f"a search in {bot.history.name}, which is deleted, was answered", bot.history)
    versions: dict[int, set[int]] = {}
    found = set()
    for result in answer.json()["results"]:
        label = _label(bot, result["chunk_text"])
        document = bot.documents.get(label.label)
        if document is None:
            raise Violation(4, f"a search in {bot.history.name} showed {result}", bot.history)
        document.history.add(f"a search from {start:.3f} showed {result['chunk_text'][:60]}")
        showing = document.with_text(result["chunk_text"])
        if not showing:
            raise Violation(2, f"a search showed a text that no client wrote: {result}", document.history)
        _check_current(document, showing, start, end, "a search")
        versions[label.label] = versions.get(label.label, set(showing)) & set(showing)
        if not versions[label.label]:
            raise Violation(2, f"a search showed two versions of {document.history.name}", document.history)
        if result["document"]["title"] not in [document.titles[version] for version in showing]:
            raise Violation(2, f"a search showed a chunk beside another version's row: {result}", document.history)
        if document.doc_id not in (None, result["doc_id"]) or result["chunk_index"] != label.number:
            raise Violation(2, f"a search showed other numbers than were acknowledged: {result}", document.history)
        _check_patch(document, result["document"]["metadata"], start, end)
        if abs(result["dense_score"] - float(embedding(text) @ embedding(result["chunk_text"]))) > 1e-3:
            raise Violation(8, f"the score of {result} is not that of its text", document.history)
        found.add(result["chunk_text"])
    if sought is None or text in found:
        return
    possible = sought.content.possible(start, end)
    if len(possible) == 1 and (version := next(iter(possible))) is not None and text in sought.versions[version]:
        raise Violation(3, f"a search did not find {text!r}, only {sorted(found)}", sought.history)


def check_walk(bot: Bot, doc_ids: Sequence[int], start: float, end: float) -> None:
    """The doc_ids of all pages of this bot, in their order."""
    if len(set(doc_ids)) < len(doc_ids):
        raise Violation(3, f"a walk over {bot.history.name} showed a document twice: {doc_ids}", bot.history)
    for document in bot.known():
        possible = document.content.possible(start, end)
        if None not in possible and document.doc_id not in doc_ids:
            raise Violation(3, f"a walk from {start:.3f} skipped {document.history.name}", document.history)
        if possible == {None} and document.doc_id in doc_ids:
            raise Violation(2, f"a walk from {start:.3f} showed {document.history.name}", document.history)


def _label(bot: Bot, text: str) -> ChunkLabel:
    found = parse_chunk_text(text)
    if found is None:
        raise Violation(2, f"a text that no client wrote: {text!r}", bot.history)
    if found.bot != bot.name:
        raise Violation(4, f"{bot.history.name} was asked, and {text!r} shown", bot.history)
    return found


def _check_current(document: Document, versions: Sequence[int], start: float, end: float, who: str) -> None:
    """``versions``: those that have what was shown."""
    possible = document.content.possible(start, end)
    shown = [version for version in versions if version in possible]
    if len(shown) == 1:
        document.content.saw(shown[0], start, end)
    if not shown:
        raise Violation(
            2,
            f"{who} from {start:.3f} to {end:.3f} showed version {versions} of {document.history.name}; "
            f"possible: {possible}",
            document.history,
        )


def _check_patch(document: Document, metadata: Mapping[str, Any], start: float, end: float) -> None:
    if not document.patch.saw(metadata.get("patch"), start, end):
        possible = document.patch.possible(start, end)
        raise Violation(
            3, f"{document.history.name} was shown with metadata {metadata}; possible: {possible}", document.history
        )


def cosines(vectors: Vectors, texts: list[str]) -> Vectors:
    """Cosine similarity (n,) of stored vectors (n, dimension) to the embeddings of their texts."""
    expected = np.array([embedding(text) for text in texts])
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return np.asarray((vectors * expected).sum(axis=1) / lengths, dtype=np.float32)
