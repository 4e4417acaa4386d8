"""The request to both stores, and the lists of hits that come back."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.core.embedding.port import Vectors
from app.core.ports import Hit, KeyRange, RecentWrites, by_rank
from app.core.search.fusion import relative_score_fusion
from app.schemas.filter_tree import Filter
from app.schemas.rows import Bot, CurrentChunk

Hydrate = Literal["none", "likely", "all"]
"""Which hits get their texts in the statement that confirms them: none, the likely winners, or all."""


@dataclass(frozen=True, slots=True)
class RetrievalRequest:
    """What to retrieve from ``bot`` for each of ``texts``.

    ``optimistic``: ``bot`` comes from the cache and has to be validated. ``writes``: the bot's newest, read
    before; the search sees all of them. ``vectors``: (n, dimension), possibly still pending; None if no dense list is
    wanted. ``lexical``: whether lexical lists are wanted.

    Each list needs ``candidates`` confirmed hits from at least ``min_documents`` documents. ``limit``: results for each
    text in the end. ``min_similarity``: least cosine similarity in the dense list. ``where``: the filter.
    ``filters_chunks``: it tests columns of chunks, so Milvus is given ids of chunks instead of documents.
    ``exclude_ranges``: keys that no reader can see yet.
    """

    bot: Bot
    optimistic: bool
    writes: RecentWrites
    texts: Sequence[str]
    vectors: asyncio.Future[Vectors] | None
    lexical: bool
    candidates: int
    min_documents: int
    limit: int
    dense_weight: float
    min_similarity: float | None
    where: Filter | None
    filters_chunks: bool
    exclude_ranges: Sequence[KeyRange]
    hydrate: Hydrate


@dataclass(slots=True)
class HitLists:
    """The hits for one text, best first; None for a list that is not wanted."""

    dense: list[Hit] | None
    lexical: list[Hit] | None

    def each(self) -> Iterable[list[Hit]]:
        return [hits for hits in (self.dense, self.lexical) if hits is not None]


@dataclass(frozen=True, slots=True)
class ConfirmedHits:
    """The confirmed hits of one list, as many as the request needs.

    ``unconfirmed``: keys above the last needed hit that PostgreSQL did not confirm. ``is_enough``: the list has what
    the request needs. ``is_exhausted``: it does not, and Milvus has no more hits. ``share``: confirmed hits as a share
    of all hits looked at, 1 if the list is long enough.
    """

    hits: list[Hit]
    unconfirmed: list[int]
    is_enough: bool
    is_exhausted: bool
    share: float


def take_confirmed(
    request: RetrievalRequest, hits: list[Hit], is_exhausted: bool, rows: Mapping[int, CurrentChunk]
) -> ConfirmedHits:
    """The confirmed hits, best first, until the request has enough. ``is_exhausted``: Milvus has no more hits."""
    confirmed: list[Hit] = []
    unconfirmed: list[int] = []
    documents: set[int] = set()
    for hit in hits:
        row = rows.get(hit.chunk_id)
        if row is None:
            unconfirmed.append(hit.chunk_id)
            continue
        confirmed.append(hit)
        documents.add(row.doc_id)
        if len(confirmed) >= request.candidates and len(documents) >= request.min_documents:
            return ConfirmedHits(confirmed, unconfirmed, is_enough=True, is_exhausted=False, share=1.0)
    share = len(confirmed) / len(hits) if hits else 1.0
    return ConfirmedHits(confirmed, unconfirmed, is_enough=False, is_exhausted=is_exhausted, share=share)


def take_all_confirmed(
    request: RetrievalRequest,
    raw: Sequence[HitLists],
    merged: Sequence[HitLists],
    k: int,
    rows: Mapping[int, CurrentChunk],
) -> list[list[ConfirmedHits]]:
    """``take_confirmed`` of every list in ``merged``.

    ``raw``: the lists as Milvus returned them for top ``k``. ``merged``: the same with hits added to them.
    """
    return [
        [
            take_confirmed(request, hits, len(from_milvus) < k, rows)
            for from_milvus, hits in zip(before.each(), after.each(), strict=True)
        ]
        for before, after in zip(raw, merged, strict=True)
    ]


def merge_hits(hits: list[Hit], added: Iterable[Hit], from_milvus: Sequence[Hit], k: int) -> list[Hit]:
    """``hits`` and the added ones, best first; a key that both have counts once, with the score in ``hits``.

    Nothing is added below the end of a full list ``from_milvus`` of ``k`` hits: chunks that Milvus did not return may
    rank there.
    """
    last = from_milvus[-1].score if len(from_milvus) >= k else -math.inf
    known = {hit.chunk_id for hit in hits}
    new = [hit for hit in added if hit.score >= last and hit.chunk_id not in known]
    return sorted([*hits, *new], key=by_rank) if new else hits


def keys_to_hydrate(request: RetrievalRequest, lists: Iterable[HitLists]) -> set[int]:
    """The keys whose texts are read while they are confirmed: by default those that win if all are confirmed."""
    if request.hydrate == "all":
        return {hit.chunk_id for pair in lists for hits in pair.each() for hit in hits}
    if request.hydrate == "none":
        return set()
    if request.vectors is None or not request.lexical:  # A single list is its own ranking.
        return {hit.chunk_id for pair in lists for hits in pair.each() for hit in hits[: request.limit]}
    return {
        ranked.chunk_id
        for pair in lists
        for ranked in relative_score_fusion(pair.dense, pair.lexical, request.dense_weight, request.candidates)[
            : request.limit
        ]
    }
