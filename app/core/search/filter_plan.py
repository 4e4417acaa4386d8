"""Chooses how a filter is applied to a search.

nothing_matches      no document passes; Milvus is not asked
documents_first      few pass: Milvus searches only these (pre-filtering)
search_first         more pass: Milvus searches the whole collection, and PostgreSQL filters the hits (post-filtering)
documents_in_slices  post-filtering found too few: Milvus searches all passing documents, one slice at a time
"""

from collections.abc import Sequence

from app.core.ports import DocumentPort, Hit, by_rank
from app.core.search.hits import HitLists, RetrievalRequest, take_confirmed
from app.core.search.query import Trace
from app.core.search.retrieval import Retrieval, RetrievalResult
from app.utils.stopwatch import Stopwatch

MAX_PREFILTER_IDS = 1_000
"""Most ids of passing documents for which pre-filtering is used."""
SLICE_IDS = 10_000
"""Ids of passing documents in one search of documents_in_slices."""


class FilterPlanner:
    def __init__(self, documents: DocumentPort, retrieval: Retrieval) -> None:
        self._documents = documents
        self._retrieval = retrieval

    async def retrieve(self, request: RetrievalRequest, trace: Trace, timings: Stopwatch) -> RetrievalResult:
        """As ``Retrieval.retrieve``, by the plan that suits the number of passing documents; fills ``trace``."""
        allowed_ids: Sequence[int] | None = None
        if request.where is not None:
            passing = await self._passing_ids(request, 0, MAX_PREFILTER_IDS + 1, timings)
            trace.matching = len(passing)
            if not passing:
                trace.plan = "nothing_matches"
                return _no_hits(request)
            trace.plan = "documents_first" if len(passing) <= MAX_PREFILTER_IDS else "search_first"
            allowed_ids = passing if trace.plan == "documents_first" else None
        result = await self._retrieval.retrieve(request, allowed_ids, timings)
        if trace.plan == "search_first" and not result.is_complete:
            trace.plan = "documents_in_slices"
            result = await self._retrieve_in_slices(request, timings)
        trace.rounds += result.rounds
        trace.dropped = result.dropped
        trace.bot_unchanged = result.bot_unchanged
        return result

    async def _passing_ids(
        self, request: RetrievalRequest, after: int, limit: int, timings: Stopwatch
    ) -> Sequence[int]:
        """Ids above ``after`` of documents that pass, or of chunks if the request ``filters_chunks``, ascending."""
        assert request.where is not None
        with timings.measure("postgres"), timings.measure("filter"):
            find = self._documents.matching_chunks if request.filters_chunks else self._documents.matching_documents
            return await find(request.bot.bot_id, request.where, after, limit)

    async def _retrieve_in_slices(self, request: RetrievalRequest, timings: Stopwatch) -> RetrievalResult:
        """Complete for any filter: searches all passing documents, SLICE_IDS at a time."""
        best = _no_hits(request)
        after = 0
        while True:
            allowed_ids = await self._passing_ids(request, after, SLICE_IDS, timings)
            if allowed_ids:
                result = await self._retrieval.retrieve(request, allowed_ids, timings)
                best.rows |= result.rows
                best.vectors |= result.vectors
                best.rounds += result.rounds
                best.lists = [_merged(one, other) for one, other in zip(best.lists, result.lists, strict=True)]
            if len(allowed_ids) < SLICE_IDS:
                for pair in best.lists:
                    pair.dense = pair.dense and take_confirmed(request, pair.dense, True, best.rows).hits
                    pair.lexical = pair.lexical and take_confirmed(request, pair.lexical, True, best.rows).hits
                return best
            after = allowed_ids[-1]


def _no_hits(request: RetrievalRequest) -> RetrievalResult:
    return RetrievalResult(
        [HitLists(None if request.vectors is None else [], [] if request.lexical else None) for _ in request.texts]
    )


def _merged(one: HitLists, other: HitLists) -> HitLists:
    return HitLists(_merged_hits(one.dense, other.dense), _merged_hits(one.lexical, other.lexical))


def _merged_hits(some: list[Hit] | None, more: list[Hit] | None) -> list[Hit] | None:
    if some is None or more is None:
        return some
    return sorted([*some, *more], key=by_rank)
