"""What clients did and saw, kept to be judged when the run is over."""

from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

Outcome = Literal["pending", "done", "failed", "unknown"]
"""failed: the server said that nothing was done. unknown: nobody can say."""


@dataclass(slots=True)
class Span:
    """When a client began something, heard of its end, and how it ended."""

    start: float
    end: float = float("inf")
    outcome: Outcome = "pending"

    def done_before(self, moment: float) -> bool:
        return self.outcome == "done" and self.end < moment

    def maybe_before(self, moment: float) -> bool:
        """It may have had its effect by then."""
        return self.outcome != "failed" and self.start < moment


@dataclass(slots=True)
class Version:
    """One insert or replacement of a document. ``texts`` name the version, so that a reader's can be told apart."""

    span: Span
    texts: list[str]
    kind: int


@dataclass(slots=True)
class DocumentHistory:
    bot: int
    versions: list[Version] = field(default_factory=list)
    deletes: list[Span] = field(default_factory=list)
    patches: list[tuple[Span, int]] = field(default_factory=list)


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
class BotHistory:
    number: int
    bot_id: UUID
    creates: list[Span] = field(default_factory=list)
    deletes: list[Span] = field(default_factory=list)
    unknown_to: list[Span] = field(default_factory=list)  # Calls that were told there is no such bot.
    names: int = 0  # Of the collection that it had first after the last restore.


@dataclass(slots=True)
class History:
    bots: list[BotHistory] = field(default_factory=list)
    documents: dict[int, DocumentHistory] = field(default_factory=dict)
    unsure: list[Version] = field(default_factory=list)  # Inserts whose doc_id no client has heard.
    reads: list[Read] = field(default_factory=list)
    searches: list[Searched] = field(default_factory=list)
    lacking: list[tuple[int, list[float]]] = field(default_factory=list)
    """By number of the bot: from when to when Milvus lacks rows that nobody has noticed yet."""
    current: dict[int, list[float]] = field(default_factory=dict)
    """By generation: from when to when it was its document's current one, in the record itself."""
    events: list[tuple[Any, ...]] = field(default_factory=list)
    doc_ids: set[int] = field(default_factory=set)
    """All that clients ever heard of, before restores too."""
    may_lack_vectors: bool = False
    """PostgreSQL was restored, and Milvus has not been repaired since: searches may find too little."""
