"""What core expects of the record about document writes: T1, T2, their compensation, and idempotency keys.

``app.core.write.saga`` describes the steps of a write. The sagas of a process's writes carry its lease token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from typing import NamedTuple, Protocol
from uuid import UUID

from app.core.ports.vector_index import ChunkIds, Vectors
from app.schemas.quotas import QuotaShortfall
from app.schemas.rows import IdempotencyKey, WriteRow
from app.schemas.stream_rows import LineResults, LinesKey
from app.schemas.versions import DocumentVersion


class WriteFailure(Enum):
    """Why the record refused one write of a batch."""

    BOT_NOT_FOUND = auto()
    """Also where another bot was registered under the same bot_id since the write read its row."""
    DOCUMENT_NOT_FOUND = auto()
    DOCUMENT_CHANGED = auto()
    """The generation that the write replaces is not current any more, or its title, where only chunks are written."""
    PRECONDITION_FAILED = auto()
    LEASE_LOST = auto()
    """The write's saga is not the token's any more, or another request has taken over the key."""


Refusal = WriteFailure | QuotaShortfall


class BeginResult(NamedTuple):
    """What T1 did. ``writes`` are in the caller's order: rows with the numbers given out, or why a write failed.

    ``key_generation``: the saga that now represents the idempotent request; None where that did not change.
    ``answer``: the stored answer of this idempotency key; then no write was begun and ``writes`` is empty.
    """

    writes: Sequence[WriteRow | Refusal]
    key_generation: int | None = None
    answer: bytes | None = None


class Replaced(NamedTuple):
    """What a replacement replaced: the number of its chunks, and the version of the document."""

    chunks: int
    version: DocumentVersion


@dataclass(frozen=True, slots=True)
class FinishResult:
    """What T2 did, by generation. A write that is in none of the three is an insert that was finished, or, where
    ``moved`` is not empty, a write that was left as it was.

    ``moved``: writes whose bot has another collection now than the one that their vectors are in.
    ``replaced``: what each finished replacement has replaced. ``versions``: of the documents as finished writes have
    made them, and of the present ones where a precondition failed; None where there is none any more.
    """

    failed: Mapping[int, Refusal] = field(default_factory=dict)
    moved: frozenset[int] = frozenset()
    replaced: Mapping[int, Replaced] = field(default_factory=dict)
    versions: Mapping[int, DocumentVersion | None] = field(default_factory=dict)


class SharedVectors(NamedTuple):
    """The vectors (n, dimension) that a small write put into a bot's collection, for other processes."""

    collection_name: str
    chunk_ids: ChunkIds
    doc_ids: ChunkIds
    vectors: Vectors


RequestKey = IdempotencyKey | LinesKey
"""What T1 and T2 record besides documents: an idempotent request, or lines of a part. All writes of lines are of the
part's bot."""
StoredAnswer = bytes | LineResults
"""The body of an idempotent request's answer, or the results of lines."""
RenderAnswer = Callable[[FinishResult], StoredAnswer]
"""Makes what is stored under the key from T2's result. Where it raises, T2 does nothing, and raises the same."""


class WritePort(Protocol):
    async def begin(
        self, writes: Sequence[WriteRow], token: UUID, lease: timedelta, key: RequestKey | None = None
    ) -> BeginResult:
        """T1: begins a saga for each write, gives it a generation and stores its chunks. Nothing is visible yet.

        A new document takes its generation as its doc_id. A replacement takes the current generation as
        ``previous_generation``, and fails when that is not ``rewrites``. With ``key`` the request takes the key, which
        its first begun write then represents, unless the key has an answer already. A write of a document with an
        ``external_id`` holds it until it ends: a write without doc_id expects that no document has it, another one that
        it is its document's. A write that does not fit into its account's quota, together with those before it, fails;
        T2 decides again. Raises IdempotencyKeyReused, RequestInFlight, PartInProgress when the part does not end with
        line ``after`` or its next lines are in flight, ExternalIdsHeld when this is not so or another write holds it,
        and NoGeneration when a block of generations has to be reserved first; with each of them nothing is done.
        """

    async def restart(
        self,
        writes: Sequence[WriteRow],
        collections: Mapping[UUID, str],
        token: UUID,
        lease: timedelta,
        key: RequestKey | None = None,
    ) -> BeginResult:
        """T1 again for writes whose bot has moved: undoes them as ``compensate`` and begins them again, in one step.

        ``collections``: each bot's collection as it is now. Each write gets a new generation; its doc_id and
        ``previous_generation`` stay. Raises NoGeneration as ``begin``.
        """

    async def finish(
        self,
        writes: Sequence[WriteRow],
        token: UUID,
        timestamps: Mapping[UUID, int],
        key: RequestKey | None = None,
        answer: RenderAnswer | None = None,
        shared: SharedVectors | None = None,
    ) -> FinishResult:
        """T2: makes the writes visible, removes what they replace and ends their sagas.

        A write whose precondition does not hold at this moment fails, and so does one that does not fit into its
        account's quota: replacements come first, then new documents, in their order. No two writes of an account with a
        quota are in T2 at a time, so that it is never exceeded. A write that fails keeps its saga, for
        ``compensate``. Where a bot has moved, nothing is done to any write.
        With ``key``, ``answer`` is called inside the transaction if a write succeeds, and what it returns is stored as
        the key's answer. ``timestamps``: Milvus's timestamps of the newest writes by bot_id; no search sees the writes
        with an older timestamp than these. ``shared``: all vectors of these writes, which are of one bot, for
        ``recent_vectors``. Without them the bot's ``unshared_timestamp`` is raised, as well as when the bot has another
        collection by now.
        """

    async def renew(self, generations: Sequence[int], token: UUID, lease: timedelta) -> set[int]:
        """Extends the leases of those of the sagas that are ``token``'s, to ``lease`` from now; returns these.

        A saga that another transaction is ending at this moment is left out.
        """

    async def compensate(self, bot_id: UUID, generations: Sequence[int], token: UUID) -> set[int]:
        """Undoes the unfinished ones among these writes of a bot; returns their generations.

        Their chunks and sagas are deleted, and their vectors go to ``vector_gc``. Waits for a transaction that may be
        committing one of them.
        """

    async def compensate_expired(self) -> int:
        """Undoes writes of any process whose lease has expired; returns how many."""

    async def enqueue_vector_gc(self, bot_id: UUID, writes: Sequence[WriteRow]) -> None:
        """Puts the generations of these writes on ``vector_gc``, where they may be already; not one that is current."""

    async def sweep_recent_vectors(self, age: timedelta) -> None:
        """Deletes what was put into ``recent_vectors`` that long ago; raises ``unshared_timestamp`` accordingly."""

    async def generation_of(self, bot_id: UUID, doc_id: int) -> int | None:
        """The document's current generation; None when there is no such document."""


class IdempotencyPort(Protocol):
    async def find_answer(self, key: IdempotencyKey) -> bytes | None:
        """The stored answer of the request that used this key first; None when there is none.

        Raises IdempotencyKeyReused when the key was used for another request.
        """

    async def remember(self, key: IdempotencyKey, answer: bytes) -> bytes:
        """Stores the answer of a request that had nothing to write. Returns the one that is stored, if there is one.

        Raises IdempotencyKeyReused, RequestInFlight.
        """

    async def sweep(self) -> None:
        """Deletes keys that are old enough and whose request is not in flight. Those of imports are kept for
        IMPORTS_KEPT."""

    async def forget(self, account: str, prefix: str) -> None:
        """Deletes those of the account's keys that begin with ``prefix`` and are answered."""
