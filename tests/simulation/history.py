"""What clients did and saw in a run, to be checked at its end."""

from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from app.schemas.versions import DocumentVersion

Outcome = Literal["pending", "done", "failed", "unknown"]
"""failed: the server answered that nothing was done. unknown: the client got no certain answer."""


@dataclass(slots=True)
class Span:
    """The time of a call, from request to answer, and its outcome."""

    start: float
    end: float = float("inf")
    outcome: Outcome = "pending"

    def done_before(self, moment: float) -> bool:
        return self.outcome == "done" and self.end < moment

    def maybe_before(self, moment: float) -> bool:
        """It may have taken effect by then."""
        return self.outcome != "failed" and self.start < moment

    def maybe_after(self, moment: float) -> bool:
        """It may have taken effect afterwards."""
        return self.outcome != "failed" and (self.end > moment or self.outcome == "unknown")


@dataclass(slots=True)
class Version:
    """One insert or replacement of a document. A text is in one document only, and some of each version in no other."""

    span: Span
    texts: list[str]
    kind: int


@dataclass(slots=True)
class DocumentHistory:
    bot: int
    versions: list[Version] = field(default_factory=list)
    deletes: list[Span] = field(default_factory=list)
    patches: list[tuple[Span, int]] = field(default_factory=list)
    external_id: str | None = None


@dataclass(slots=True)
class Session:
    """The end of a synchronization. ``late``: of documents that it may have deleted although the client heard of them
    later."""

    bot: int
    begun: Span
    finish: Span
    kept: str
    late: list[Span] = field(default_factory=list)

    def may_have_deleted(self, bot: int, external_id: str, stored: Span) -> bool:
        if bot != self.bot or external_id == self.kept or stored.end <= self.finish.start:
            return False
        return stored.start <= self.begun.end


@dataclass(slots=True)
class Read:
    """A get of ``doc_id``: the chunks' texts, or None for not found."""

    span: Span
    bot: int
    doc_id: int
    texts: list[str] | None
    patched: int | None = None


@dataclass(slots=True)
class Found:
    """One search result."""

    chunk_id: int
    doc_id: int
    text: str
    score: float
    kind: int


@dataclass(slots=True)
class Searched:
    span: Span
    bot: int
    results: list[Found]
    limit: int
    kind: int | None
    text: str
    may_lack_vectors: bool = False


@dataclass(slots=True)
class Walk:
    """All pages of a bot's documents, one after the other: the doc_ids in the order in which they came."""

    span: Span
    bot: int
    doc_ids: list[int]


@dataclass(slots=True)
class BotHistory:
    number: int
    bot_id: UUID
    creates: list[Span] = field(default_factory=list)
    deletes: list[Span] = field(default_factory=list)
    unknown_to: list[Span] = field(default_factory=list)  # Calls with the answer bot_not_found.
    names: int = 0  # The number in the name of the collection that it had after the last restore.


@dataclass(slots=True)
class History:
    bots: list[BotHistory] = field(default_factory=list)
    documents: dict[int, DocumentHistory] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    unsure: list[Version] = field(default_factory=list)  # Inserts whose doc_id no client knows.
    upserts: dict[tuple[int, str], list[Version]] = field(default_factory=dict)
    """By number of the bot and external_id: versions whose doc_id no client knows. They are in ``unsure``
    too."""
    created: set[int] = field(default_factory=set)
    """The doc_ids of documents that an upsert is known to have created."""
    reads: list[Read] = field(default_factory=list)
    searches: list[Searched] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)
    lacking: list[tuple[int, list[float]]] = field(default_factory=list)
    """(number of the bot, [from, to]): when Milvus lacked rows and the loss was not detected yet."""
    exceeded: list[str] = field(default_factory=list)
    """When an account had more than its quota."""
    current: dict[int, list[float]] = field(default_factory=dict)
    """{generation: [from, to]}: when it was the current generation of its document in PostgreSQL."""
    lineage: dict[int, list[DocumentVersion]] = field(default_factory=dict)
    """The versions that each document has had in PostgreSQL, in order."""
    modified: list[tuple[int, DocumentVersion, DocumentVersion | None]] = field(default_factory=list)
    """doc_id, the version that a client had read, and the one that its conditional change made, if it was told."""
    events: list[tuple[Any, ...]] = field(default_factory=list)
    doc_ids: set[int] = field(default_factory=set)
    """All doc_ids that clients ever got, also before restores."""
    may_lack_vectors: bool = False
    """PostgreSQL was restored, and Milvus has not been repaired since: searches may find too little."""
