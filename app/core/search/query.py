"""What is asked of a search, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from app.schemas.filter_tree import Filter
from app.schemas.rows import Chunk, Progress, SearchChunk

Mode = Literal["dense", "lexical", "hybrid"]
Plan = Literal["documents_first", "search_first", "documents_in_slices", "nothing_matches"]


@dataclass(frozen=True, slots=True)
class Query:
    """``texts`` are asked alike, each for itself. ``mode`` None: hybrid where it can be, else dense. ``allow_partial``:
    take what there is while the bot's index is rebuilt."""

    bot_id: UUID
    account: str | None
    texts: Sequence[str]
    limit: int
    mode: Mode | None = None
    dense_weight: float | None = None
    where: Filter | None = None
    score_threshold: float | None = None
    group_by_document: bool = False
    context_chunks: int = 0
    rerank: bool = False
    allow_partial: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """A confirmed chunk.

    ``score`` ranks it: of the reranker, else fused 0..1 in hybrid mode, else the mode's own. ``dense_score`` is its
    cosine similarity, None in lexical mode; ``lexical_score`` its BM25, None where the list of words lacks it.
    ``context``: it and its neighbours in order, empty unless asked for.
    """

    chunk: SearchChunk
    score: float
    dense_score: float | None
    lexical_score: float | None
    rerank_score: float | None = None
    context: Sequence[Chunk] = ()


@dataclass(slots=True)
class Trace:
    """How a search went. ``matching``: documents that pass the filter, counted to FEW_DOCUMENTS + 1.

    ``held``: the bot's row was seen to be the one that was assumed.
    """

    plan: Plan | None = None
    matching: int | None = None
    rounds: int = 0
    dropped: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class SearchResults:
    """The results for each text, in the order of the texts. ``rebuild``: how much was indexed, where not all was."""

    mode: Mode
    results: list[list[Result]]
    trace: Trace
    rebuild: Progress | None = None
