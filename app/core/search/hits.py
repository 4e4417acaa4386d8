"""What a search asks of both stores, and the lists of hits that come back."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from app.core.embedding.port import Vectors
from app.core.ports import Hit, KeyRange
from app.core.search.fusion import relative_score_fusion
from app.schemas.filter_tree import Filter
from app.schemas.rows import Bot, CurrentChunk


@dataclass(frozen=True, slots=True)
class RetrievalRequest:
    """What is wanted of a bot for each of ``texts``.

    Of each list ``depth`` chunks, of at least ``documents`` documents. ``vectors`` (n, dimension), which may still be
    on their way while words are looked for, are None where no dense list is wanted. ``floor``: least cosine similarity
    in the dense list. ``read``: of how many chunks, best first, the text will be needed. ``hydrate``: whether texts are
    read as their keys are confirmed, else later. ``read_all``: the text of each that is found. ``exclude_ranges``:
    keys that no reader can see yet, and that are skipped. ``assumed``: the bot's row is the one of an earlier search.
    ``by_chunk``: the filter looks at chunks, so that it is chunks, not documents, that are named to Milvus.
    """

    bot: Bot
    assumed: bool
    guarantee_timestamp: int
    texts: Sequence[str]
    vectors: asyncio.Future[Vectors] | None
    lexical: bool
    depth: int
    documents: int
    read: int
    dense_weight: float
    floor: float | None
    where: Filter | None
    exclude_ranges: Sequence[KeyRange]
    read_all: bool = False
    by_chunk: bool = False
    hydrate: bool = True


@dataclass(slots=True)
class HitLists:
    """The hits for one text, best first; None where a list is not wanted."""

    dense: list[Hit] | None
    lexical: list[Hit] | None

    def each(self) -> Iterable[list[Hit]]:
        return [hits for hits in (self.dense, self.lexical) if hits is not None]


@dataclass(frozen=True, slots=True)
class ConfirmedHits:
    """A list as far as it was needed. ``share``: what part of the hits was confirmed."""

    hits: list[Hit]
    unconfirmed: list[int]
    enough: bool
    exhausted: bool
    share: float


def take_confirmed(
    ask: RetrievalRequest, hits: list[Hit], exhausted: bool, rows: Mapping[int, CurrentChunk]
) -> ConfirmedHits:
    """The confirmed ones of ``hits`` until there are as many as are wanted. ``exhausted``: Milvus has no more."""
    kept: list[Hit] = []
    unconfirmed: list[int] = []
    documents: set[int] = set()
    for hit in hits:
        row = rows.get(hit.chunk_id)
        if row is None:
            unconfirmed.append(hit.chunk_id)
            continue
        kept.append(hit)
        documents.add(row.doc_id)
        if len(kept) >= ask.depth and len(documents) >= ask.documents:
            return ConfirmedHits(kept, unconfirmed, True, False, 1.0)
    return ConfirmedHits(kept, unconfirmed, False, exhausted, len(kept) / len(hits) if hits else 1.0)


def take_all_confirmed(
    ask: RetrievalRequest, raw: Sequence[HitLists], merged: Sequence[HitLists], k: int, rows: Mapping[int, CurrentChunk]
) -> list[list[ConfirmedHits]]:
    """``take_confirmed`` of each of ``merged``: ``raw``, at most k hits of each list, and what was added to them."""
    return [
        [
            take_confirmed(ask, hits, len(from_milvus) < k, rows)
            for from_milvus, hits in zip(before.each(), after.each(), strict=True)
        ]
        for before, after in zip(raw, merged, strict=True)
    ]


def foreseen(ask: RetrievalRequest, lists: Iterable[HitLists]) -> set[int]:
    """The keys whose texts will most likely be shown: the best, if all are confirmed."""
    if ask.read_all:
        return {hit.chunk_id for pair in lists for hits in pair.each() for hit in hits}
    if not ask.hydrate:
        return set()
    if ask.vectors is None or not ask.lexical:  # One list ranks itself.
        return {hit.chunk_id for pair in lists for hits in pair.each() for hit in hits[: ask.read]}
    return {
        one.chunk_id
        for pair in lists
        for one in relative_score_fusion(pair.dense, pair.lexical, ask.dense_weight)[: ask.read]
    }
