"""Requests with an Idempotency-Key: one effect, and the same answer however often they are sent.

T1 takes the key for the request's sagas, and T2 stores the answer together with their effect. When a request dies in
between, the next request with its key takes the key over, as soon as recovery has undone the sagas of the first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.core.write.write import Outcome
from app.schemas.rows import IdempotencyKey


@dataclass
class IdempotentRequest:
    """The state of one such request."""

    key: str
    body_sha256: bytes
    """Of everything that makes it the same request: method, path and body."""
    render: Callable[[Sequence[Outcome]], bytes]
    """Makes the answer's body. Called inside T2, when the outcome of each write is known."""
    account: str = ""
    """The account that the key belongs to: empty where the caller names none."""
    outcomes: Callable[[], Sequence[Outcome]] = tuple
    generation: int = 0
    """The saga that represents the request while it is in flight."""
    answer: bytes | None = None
    """The body to send; None as long as the request has had no effect."""
    replayed: bool = False

    def to_row(self) -> IdempotencyKey:
        return IdempotencyKey(self.account, self.key, self.body_sha256, self.generation)

    def set_answer(self) -> bytes:
        """Renders the answer of the outcomes as they are now, and keeps it."""
        self.answer = self.render(self.outcomes())
        return self.answer

    def forget_answer(self) -> None:
        """T2 was undone."""
        self.answer = None

    def set_replay(self, answer: bytes) -> None:
        """The request was answered before: this is its stored answer."""
        self.answer, self.replayed = answer, True
