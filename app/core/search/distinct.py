"""Collapses chunks of equal text into the best of them, and asks for more candidates if too few texts are left."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from uuid import UUID

from app.core.ports import DocumentPort
from app.core.search.fusion import RankedChunk
from app.core.search.hits import HitLists, RetrievalRequest
from app.core.search.query import Duplicates, Result
from app.schemas.rows import CurrentChunk

MAX_NAMED = 10
"""Duplicates of one result that are named; the others are counted."""
CANDIDATES = 100
"""Chunks of each list that are looked at first; more only if they have too few different texts."""
MAX_CANDIDATES = 10_000
"""Chunks of each list that are looked at in the end, over all texts of a search."""
WIDEN_FACTOR = 8
TEXTS_AT_A_TIME = 500


def text_key(text: str) -> bytes:
    """The same for texts that are equal after NFKC, with every run of white space as one blank and none at the ends."""
    folded = " ".join(unicodedata.normalize("NFKC", text).split())
    return blake2b(folded.encode(), digest_size=16).digest()


async def text_keys(
    documents: DocumentPort, bot_id: UUID, rows: Mapping[int, CurrentChunk], rankings: Iterable[Sequence[RankedChunk]]
) -> dict[int, bytes]:
    """The ``text_key`` of each ranked chunk, by chunk_id; texts that were not hydrated are read in parts.

    A chunk that has just been replaced has none.
    """
    wanted = {ranked.chunk_id for ranking in rankings for ranked in ranking}
    keys = {chunk_id: text_key(chunk.text) for chunk_id in wanted if (chunk := rows[chunk_id].chunk)}
    missing = sorted(wanted - keys.keys())
    for start in range(0, len(missing), TEXTS_AT_A_TIME):
        texts = await documents.texts(bot_id, missing[start : start + TEXTS_AT_A_TIME])
        keys |= {chunk_id: text_key(text) for chunk_id, text in texts.items()}
    return keys


@dataclass(frozen=True, slots=True)
class DistinctRanking:
    """``best``: chunks of which no two have equal texts. ``equal``: all chunks of a text in order, by the chunk_id of
    the one that is in ``best``."""

    best: list[RankedChunk]
    equal: dict[int, list[int]]

    def duplicates(self, chunk_id: int, rows: Mapping[int, CurrentChunk]) -> Duplicates:
        """The chunks whose texts equal that of the best one."""
        others = [key for key in self.equal.get(chunk_id, ()) if key != chunk_id]
        return Duplicates(len(others), [(rows[key].doc_id, key) for key in others[:MAX_NAMED]])


def distinct_ranking(
    ranking: Sequence[RankedChunk], keys: Mapping[int, bytes], doc_ids: Mapping[int, int] | None
) -> DistinctRanking:
    """The best chunk of each text; with ``doc_ids`` (by chunk_id) also at most one of each document."""
    equal: dict[bytes | int, list[int]] = {}
    for ranked in ranking:
        equal.setdefault(keys.get(ranked.chunk_id, ranked.chunk_id), []).append(ranked.chunk_id)
    best: list[RankedChunk] = []
    chosen: dict[int, list[int]] = {}
    seen_documents: set[int] = set()
    for ranked in ranking:
        key = keys.get(ranked.chunk_id, ranked.chunk_id)
        if key not in equal or (doc_ids is not None and doc_ids[ranked.chunk_id] in seen_documents):
            continue
        chosen[ranked.chunk_id] = equal.pop(key)
        best.append(ranked)
        if doc_ids is not None:
            seen_documents.add(doc_ids[ranked.chunk_id])
    return DistinctRanking(best, chosen)


def wider_request(
    request: RetrievalRequest, lists: Sequence[HitLists], results: Sequence[Sequence[Result]]
) -> RetrievalRequest | None:
    """The request for more candidates. None if every text has ``limit`` results, or if more would not help."""
    most = max(MAX_CANDIDATES // len(request.texts), request.candidates)
    is_short = any(
        len(found) < request.limit
        and any(result.duplicates and result.duplicates.count for result in found)
        and any(len(hits) >= request.candidates for hits in pair.each())
        for pair, found in zip(lists, results, strict=True)
    )
    if not is_short or request.candidates >= most:
        return None
    return replace(request, candidates=min(request.candidates * WIDEN_FACTOR, most))
