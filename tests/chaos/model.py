"""The model: what each acknowledged call promises, and therefore what a read may return.

A register holds one value: a document's version, its last patch, or whether a bot exists. A write is an interval from
its request to its answer. A write without an answer is in doubt: it may have happened, may still happen, or never does.
"""

import itertools
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from tests.chaos.chunk_text import chunk_texts, title

Value = Hashable
now = time.monotonic
_labels = itertools.count(1)


class Violation(Exception):
    """An invariant does not hold. ``history``: the calls on the document or bot, with their answers."""

    def __init__(self, invariant: int, message: str, history: "History | None" = None) -> None:
        super().__init__(f"invariant {invariant}: {message}")
        self.invariant = invariant
        self.history = history


class History:
    """The last calls and answers about one document or bot, for the report of a violation."""

    def __init__(self, name: str, only_bot: "History | None" = None) -> None:
        self.name = name
        self._of_bot = only_bot
        self._lines: list[str] = []

    @property
    def lines(self) -> list[str]:
        return sorted(self._lines + (self._of_bot.lines if self._of_bot else []))

    def add(self, line: str) -> None:
        self._lines.append(f"{now():.3f} {line}")
        del self._lines[:-100]


@dataclass(eq=False, slots=True)
class Op:
    """A write of ``value``. ``end`` is infinite until it is acknowledged or seen."""

    value: Value
    start: float
    end: float = math.inf
    outcome: Literal["open", "acknowledged", "doubt", "failed"] = "open"

    def acknowledge(self) -> None:
        self.outcome, self.end = "acknowledged", min(self.end, now())

    def happened(self, at: float) -> None:
        """A read returned its value: it counts as acknowledged from then on."""
        self.end = min(self.end, at)

    def doubt(self) -> None:
        self.outcome = "doubt"

    def fail(self) -> None:
        """The answer said that nothing was done."""
        if self.end < math.inf:
            raise Violation(2, f"a write of {self.value!r} was seen, and then answered as undone")
        self.outcome = "failed"


class Register:
    def __init__(self, value: Value) -> None:
        self.ops = [Op(value, -math.inf, -math.inf, "acknowledged")]

    def write(self, value: Value) -> Op:
        return self.join(Op(value, now()))

    def join(self, op: Op) -> Op:
        self.ops.append(op)
        return op

    def possible(self, start: float, end: float) -> set[Value]:
        """Values that a read from ``start`` to ``end`` may return."""
        return {op.value for op in self._candidates(start, end)}

    def current(self) -> set[Value]:
        """Values that the register may hold now."""
        return self.possible(now(), now())

    def saw(self, value: Value, start: float, end: float) -> bool:
        """Whether a read may return ``value``. If only one write can have written it, that write has happened."""
        candidates = [op for op in self._candidates(start, end) if op.value == value]
        if len(candidates) == 1:
            candidates[0].happened(end)
        return bool(candidates)

    def settle(self, value: Value) -> None:
        """Nothing is in flight, and the register holds ``value``."""
        self.ops = [Op(value, -math.inf, now(), "acknowledged")]

    @property
    def touched(self) -> bool:
        return len(self.ops) > 1

    def _candidates(self, start: float, end: float) -> list[Op]:
        replaced = max((op.start for op in self.ops if op.end < start and op.outcome != "failed"), default=-math.inf)
        return [op for op in self.ops if op.outcome != "failed" and op.start <= end and op.end >= replaced]


@dataclass(eq=False)
class Document:
    bot: "Bot"
    label: int = field(default_factory=lambda: next(_labels))
    doc_id: int | None = None
    content: Register = field(default_factory=lambda: Register(None))
    patch: Register = field(default_factory=lambda: Register(None))
    versions: dict[int, list[str]] = field(default_factory=dict)
    """The texts of each version."""
    titles: dict[int, str] = field(default_factory=dict)
    external_id: str | None = None
    patches: int = 0

    def __post_init__(self) -> None:
        self.history = History(f"bot {self.bot.name} document {self.label}", self.bot.history)

    def new_version(self, count: int) -> int:
        version = len(self.versions) + 1
        self.versions[version] = chunk_texts(self.bot.name, self.label, version, count)
        self.titles[version] = title(self.label, version)
        return version

    def edited_version(self, base: int, number: int) -> int:
        """``base`` with another text for this chunk, or with one more at its end."""
        version = self.new_version(max(number + 1, len(self.versions[base])))
        kept = self.versions[base]
        self.versions[version] = [*kept[:number], self.versions[version][number], *kept[number + 1 :]]
        self.titles[version] = self.titles[base]
        return version

    def shortened_version(self, base: int) -> int:
        """``base`` without its last chunk."""
        version = self.new_version(1)
        self.versions[version], self.titles[version] = self.versions[base][:-1], self.titles[base]
        return version

    def with_texts(self, texts: list[str]) -> list[int]:
        """The versions that have exactly these texts. An edit may bring back those of an earlier version."""
        return [version for version, known in self.versions.items() if known == texts]

    def with_text(self, text: str) -> list[int]:
        return [version for version, texts in self.versions.items() if text in texts]


@dataclass(eq=False)
class Bot:
    name: str
    bot_id: UUID
    exists: Register = field(default_factory=lambda: Register(None))
    """True, or None when deleted. A deletion is one write to the bot and to all its documents."""
    documents: dict[int, Document] = field(default_factory=dict)
    deletions: list[Op] = field(default_factory=list)
    session: str | None = None
    """The synchronization that has not ended, as far as clients know."""
    syncing: bool = False

    def __post_init__(self) -> None:
        self.history = History(f"bot {self.name} {self.bot_id}")

    @property
    def collection(self) -> str:
        return f"chaos_{self.bot_id.hex}"

    def new_document(self) -> Document:
        document = Document(self)
        for deletion in self.deletions:
            document.content.join(deletion)
            document.patch.join(deletion)
        self.documents[document.label] = document
        return document

    def known(self) -> list[Document]:
        """Documents whose doc_id clients know."""
        return [document for document in self.documents.values() if document.doc_id is not None]
