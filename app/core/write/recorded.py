"""Requests of which T1 and T2 record something besides documents."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from app.core.ports import RequestKey, StoredAnswer
from app.core.write.write import Outcome
from app.schemas.stream_rows import LineResults, LinesKey
from app.utils.errors import BotNotFound, DocumentChanged, ExternalIdInFlight, QuotaExceeded, Unavailable

REPEATABLE: Final = (Unavailable, ExternalIdInFlight, DocumentChanged)
"""Errors of a document that a later attempt may not have."""
UNDOING: Final = (*REPEATABLE, BotNotFound, QuotaExceeded)
"""Errors by which a request refuses T2."""


class RecordedRequest(Protocol):
    """``IdempotentRequest`` or ``LinesRequest``. ``generation``: the saga that represents the request while it is in
    flight. ``replayed``: it was answered before."""

    generation: int
    replayed: bool

    def to_row(self) -> RequestKey:
        """What identifies the request."""

    def set_answer(self) -> StoredAnswer:
        """Renders what is stored from the outcomes, and keeps it. Called inside T2, which does nothing if it raises."""

    def forget_answer(self) -> None:
        """T2 was undone."""

    def set_replay(self, answer: bytes) -> None:
        """The request was answered before: this is its stored answer."""


@dataclass
class LinesRequest:
    """Lines of a part. They are stored with all their documents, or not at all: a line counts as done only with a
    result that stays, and an error that a later attempt may not have is no such result."""

    key: LinesKey
    render: Callable[[Sequence[Outcome]], LineResults]
    outcomes: Callable[[], Sequence[Outcome]] = tuple
    """Those of all lines with a document, as they are when it is called."""
    generation: int = 0
    results: LineResults | None = None
    """Set when they are stored."""
    replayed: bool = False

    def to_row(self) -> LinesKey:
        return self.key._replace(generation=self.generation)

    def set_answer(self) -> LineResults:
        """Raises the error of a document that a later attempt may not have, BotNotFound or QuotaExceeded."""
        outcomes = self.outcomes()
        self.check(outcomes)
        self.results = self.render(outcomes)
        return self.results

    def check(self, outcomes: Iterable[Outcome]) -> None:
        """Raises as ``set_answer``."""
        for outcome in outcomes:
            if isinstance(outcome.error, UNDOING):
                if isinstance(outcome.error, DocumentChanged):  # The lines can be sent again as they are.
                    outcome.error.retry_after = 1
                raise outcome.error

    def forget_answer(self) -> None:
        self.results = None

    def set_replay(self, answer: bytes) -> None:
        raise NotImplementedError("T1 finds no answer of lines")
