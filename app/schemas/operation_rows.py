"""Rows and results of maintenance: statistics, garbage, migrations, rebuilds, generations, API keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from app.schemas.rows import CHUNKS_PER_GENERATION


@dataclass(frozen=True, slots=True)
class Calibration:
    """Coefficients of the two logistic regressions behind ``confidence``: ``app.core.search.confidence``.

    ``with_similarity``: of 1, coverage, missing, covered and cosine similarity. ``words_only``: the same without the
    last, for lexical mode.
    """

    with_similarity: tuple[float, float, float, float, float]
    words_only: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class TermCounts:
    """In how many of the ``sampled`` chunks of a bot each term occurs.

    ``terms``: n hashes of 4 bytes, ascending, then n counts of 2 bytes, little-endian.
    """

    sampled: int
    terms: bytes


@dataclass(frozen=True, slots=True)
class BotStatistics:
    """What coverage and confidence of a bot's results are computed from.

    ``version``: None before ``counts`` were stored first. ``counts``: None if there are none for the bot's present
    analyzer. ``calibration``: None if none was stored for the bot's model.
    """

    version: UUID | None
    analyzer_version: int
    title_in_lexical: bool
    counts: TermCounts | None
    calibration: Calibration | None


@dataclass(frozen=True, slots=True)
class BotSize:
    """``chunks``: counted up to a limit. ``pages``: of the table that holds them, which grow with them."""

    chunks: int
    pages: int


@dataclass(frozen=True, slots=True)
class SampleAge:
    """A bot's stored sample: version and analyzer of its ``BotStatistics``, the bot's size then, ``age`` in seconds."""

    version: UUID | None
    analyzer_version: int
    title_in_lexical: bool
    size: BotSize
    age: float


@dataclass(frozen=True, slots=True)
class VectorGarbage:
    """A row of ``vector_gc``. ``window_passed``: no write of this generation can still take effect in Milvus."""

    generation: int
    chunk_span: int
    collection_name: str
    not_before: datetime
    window_passed: bool

    @property
    def span(self) -> tuple[int, int]:
        first = self.generation * CHUNKS_PER_GENERATION
        return first, first + self.chunk_span


@dataclass(frozen=True, slots=True)
class ModelMigration:
    """An unfinished migration of a bot to another model: the collection that is being filled, its model and its words.

    ``analyzer_version``, ``title_in_lexical``: as in Bot.
    """

    collection_name: str
    embedding_model: str
    dimension: int
    analyzer_version: int = 1
    title_in_lexical: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A bot whose rows in Milvus have to be counted.

    ``lost_below``: 0, or PostgreSQL may have been restored and may have lost generations below this one. Then the
    count proves nothing. ``settled``: that is so long ago that no delete from before it can still take effect.
    """

    bot_id: UUID
    lost_below: int
    settled: bool


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A rebuild that this process has claimed.

    Generations from ``before_generation`` on have their vectors. ``in_place``: only some of the rows are missing.
    ``attempts``: 1 for the first process that claims it.
    """

    bot_id: UUID
    before_generation: int
    in_place: bool
    chunks_total: int
    attempts: int


@dataclass(frozen=True, slots=True)
class SourceChunk:
    """A current chunk that may be copied to a collection. ``title``: of its document. ``chunk_span``: of its
    generation."""

    chunk_id: int
    doc_id: int
    title: str
    text: str
    chunk_span: int

    @property
    def generation(self) -> int:
        return self.chunk_id // CHUNKS_PER_GENERATION


@dataclass(frozen=True, slots=True)
class GenerationBlock:
    """The generations ``first`` to ``last``, reserved by one database. No other database ever gives one of them out."""

    block_id: UUID
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A row of Milvus's marker: a block and its database. ``takes_over``: from this row on Milvus belongs to it."""

    block: GenerationBlock
    installation_id: UUID
    database: str
    takes_over: bool


@dataclass(frozen=True, slots=True)
class GenerationState:
    """What a database knows about its generations.

    ``usable``: it reserved the block [first, last] itself, and was not restored, copied or restarted since. ``newest``:
    the generation that was given out last. ``database``: differs from that of a copy elsewhere or with another name.
    """

    installation_id: UUID
    database: str
    usable: bool
    first: int
    last: int
    newest: int
    blocks: Sequence[GenerationBlock]

    @property
    def left(self) -> int:
        return self.last - max(self.newest, self.first - 1) if self.usable else 0


Scope = Literal["read", "write", "admin", "operator"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin", "operator")
"""Each scope includes those before it. A key of an operator has no account: it is for the bots of every account."""


@dataclass(frozen=True, slots=True)
class StoredApiKey:
    """A usable API key. ``account_name`` None: an operator's. ``seconds_left`` until it expires; None: never."""

    sha256: bytes
    account_name: str | None
    scopes: Sequence[str]
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class ListedApiKey:
    """An API key as an operator sees it. ``usable``: neither revoked nor expired."""

    prefix: str
    account_name: str | None
    scopes: Sequence[str]
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    usable: bool


JobKind = Literal["verify", "repair", "rebuild", "reembed", "reindex", "tune"]
JobState = Literal["running", "succeeded", "failed", "cancelled", "interrupted"]
JobUnit = Literal["bots", "chunks", "questions"]


@dataclass(frozen=True, slots=True)
class JobProgress:
    """``done`` of ``total`` units; ``total`` None: not known yet."""

    done: int = 0
    total: int | None = None
    unit: JobUnit = "bots"


@dataclass(frozen=True, slots=True)
class Job:
    """``bot_id`` None: over all bots. ``state`` "interrupted": its process died or was stopped."""

    job_id: UUID
    kind: JobKind
    bot_id: UUID | None
    options: dict[str, Any]
    state: JobState
    unit: JobUnit
    done: int
    total: int | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    cancel_requested: bool
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended. ``error``: ``code`` and ``detail`` of a job that failed."""

    state: JobState
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """An API key as it is stored. ``sha256``: of the whole key, from which the key cannot be found."""

    prefix: str
    sha256: bytes
    account_name: str
    scopes: Sequence[str]
    note: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """Numbers of rows over all bots. ``overdue_seconds``: for how long the oldest row of vector_gc has been due."""

    sagas: int
    expired_sagas: int
    vector_gc: int
    overdue_seconds: float


DocumentFields = dict[str, Any]
"""Values by column of ``documents``: title, file_path, file_type, author, tags, metadata."""


@dataclass(frozen=True, slots=True)
class NormalizedPage:
    """``documents``: how many were read, up to doc_id ``last``; ``rewritten``: how many of them were changed."""

    documents: int
    last: int
    rewritten: int


@dataclass(frozen=True, slots=True)
class LoadState:
    """Whether a bot's collection is in Milvus's memory, as last seen."""

    state: Literal["loaded", "loading", "released"]
    last_used_at: datetime | None
    """Of a search or another read; some seconds old."""
