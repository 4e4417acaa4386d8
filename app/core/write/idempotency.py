"""Requests with an Idempotency-Key: one effect, and the same answer however often they are sent.

T1 claims the key for its sagas, T2 stores the answer with their effect. A key whose request died in between
belongs to whoever sends it next, as soon as recovery has taken the dead one's sagas away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.core.write.write import Outcome
from app.utils.errors import IdempotencyKeyReused, RequestInFlight


@dataclass
class IdempotentRequest:
    """One such request, in the state that its transactions leave it in."""

    key: str
    body_sha256: bytes
    """Of all that makes it the same request: method, path and body."""
    render: Callable[[Sequence[Outcome]], bytes]
    """Makes the answer's body; asked in T2, when the outcome of each write is known."""
    account: str = ""
    """Whose key it is: empty where the caller names no account."""
    outcomes: Callable[[], Sequence[Outcome]] = tuple
    generation: int = 0
    """The saga that stands for the request while it is at work."""
    answer: bytes | None = None
    """The body to be sent; None as long as the request has had no effect."""
    replayed: bool = False

    def check_same(self, body_sha256: bytes) -> None:
        """Raises IdempotencyKeyReused unless the key was used for this very request."""
        if body_sha256 != self.body_sha256:
            raise IdempotencyKeyReused("This Idempotency-Key belongs to another request: its body or its path differs.")

    def replay(self, answer: bytes) -> None:
        self.answer, self.replayed = answer, True

    def raise_in_flight(self) -> None:
        raise RequestInFlight("A request with this Idempotency-Key is still at work, or was cut off a moment ago.")
