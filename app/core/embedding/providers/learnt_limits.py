"""How many texts an endpoint takes in a request, learnt from its refusals and remembered for the process."""

UNGATED_TEXTS = 8
"""So few texts are sent without having been tried: queries are not to wait for a trial."""


class LearntLimits:
    """``proven``: so many texts were taken. ``refused``: so many were too many; None while nothing was.

    Until both are next to each other, or ``proven`` is all that is wanted, a request of more texts than ``proven``, and
    than a few, is a trial, and one trial runs at a time.
    """

    def __init__(self, wanted: int, *, known: bool) -> None:
        self._wanted = wanted
        self.proven = wanted if known else 1
        self.refused: int | None = None

    @property
    def settled(self) -> bool:
        return self.proven >= self._wanted or (self.refused is not None and self.refused - self.proven <= 1)

    @property
    def most(self) -> int:
        """What is sent in a request."""
        return self.proven if self.settled else self._wanted

    def needs_trial(self, texts: int) -> bool:
        return not self.settled and texts > max(self.proven, UNGATED_TEXTS)

    def trial(self, left: int) -> int:
        """How many of ``left`` texts to send next: half of what was refused, then halfway to what was taken."""
        if self.refused is None or self.settled:
            return min(left, self.most)
        half = self.refused // 2
        return min(left, half if half > self.proven else (self.proven + self.refused) // 2)

    def took(self, texts: int) -> None:
        self.proven = max(self.proven, texts)
        if self.refused is not None and self.refused <= self.proven:
            self.refused = None  # It was something else, or the endpoint takes more than it did.

    def too_many(self, texts: int) -> None:
        """Refused, and no text of them was refused by itself: so far as is known, there were too many."""
        self.refused = min(texts, self.refused or texts)
        if self.proven >= self.refused:  # The endpoint takes fewer than it did.
            self.proven = max(1, self.refused // 2)

    def named(self, texts: int) -> None:
        self.proven, self.refused = texts, texts + 1

    def forget_refusals(self, sizes: list[int]) -> None:
        """``sizes`` are the refusals that no bad text explains."""
        self.refused = min(sizes, default=None)
