"""Query and result types of a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from app.schemas.filter_tree import Filter
from app.schemas.rows import Chunk, Mode, Progress, SearchChunk

FilterPlan = Literal["documents_first", "search_first", "documents_in_slices", "nothing_matches"]
"""How a filter was applied: see ``app.core.search.filter_plan``."""


@dataclass(frozen=True, slots=True)
class Query:
    """One or more query texts for one bot; each text gets its own results, under the same options.

    ``account`` None: of any account. ``limit``: most results for each text. ``mode``, ``dense_weight`` and
    ``min_confidence`` None: the bot's defaults. ``score_threshold``: least cosine similarity. ``distinct``: of chunks
    with equal texts only the best. ``context_chunks``: neighbours on each side of a result. ``min_confidence``: least
    confidence of a result. ``allow_partial``: search even while vectors of the bot are missing and being rebuilt.
    """

    bot_id: UUID
    account: str | None
    texts: Sequence[str]
    limit: int
    mode: Mode | None = None
    dense_weight: float | None = None
    where: Filter | None = None
    score_threshold: float | None = None
    group_by_document: bool = False
    distinct: bool = False
    context_chunks: int = 0
    rerank: bool = False
    min_confidence: float | None = None
    allow_partial: bool = False


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Chunks with the text of a result. ``count``: how many. ``chunks``: (doc_id, chunk_id) of the best of them."""

    count: int
    chunks: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Result:
    """A chunk that PostgreSQL has confirmed, and its scores.

    ``score`` ranks it: the reranker's score if it was reranked, 0..1 in hybrid mode, else the score of the mode.
    ``dense_score``: cosine similarity, None in lexical mode. ``lexical_score``: BM25, None if the chunk is not in the
    lexical list. ``lexical_coverage``: the share of the query's idf that the chunk covers, 0..1. ``confidence``: how
    likely it is that this result or one below it answers the query, 0..1; None if the bot's model has no calibration.
    ``context``: the chunk and its neighbours in order, empty unless the query asks for them.
    ``duplicates``: None unless the query is ``distinct``.
    """

    chunk: SearchChunk
    score: float
    dense_score: float | None
    lexical_score: float | None
    rerank_score: float | None = None
    lexical_coverage: float = 0.0
    confidence: float | None = None
    context: Sequence[Chunk] = ()
    duplicates: Duplicates | None = None


@dataclass(slots=True)
class Trace:
    """How a search was carried out.

    ``plan`` and ``matching``: None without a filter. ``matching``: documents (chunks, if the filter tests chunks) that
    pass it, counted up to MAX_PREFILTER_IDS + 1. ``rounds``: searches in Milvus. ``dropped``: keys that PostgreSQL did
    not confirm. ``bot_unchanged``: the bot's row was assumed and found unchanged.
    """

    plan: FilterPlan | None = None
    matching: int | None = None
    rounds: int = 0
    dropped: int = 0
    bot_unchanged: bool = False


@dataclass(frozen=True, slots=True)
class SearchResults:
    """The results for each text, in the order of the texts.

    ``rebuild``: the progress of the bot's rebuild if the search was partial, else None.
    """

    mode: Mode
    results: list[list[Result]]
    trace: Trace
    rebuild: Progress | None = None
