"""Learns from errors how many texts an endpoint accepts per request. Kept until the process ends."""

ALWAYS_SENT_TEXTS = 8
"""Requests of up to this number of texts are sent without a trial, so that queries do not wait for one."""


class LearnedLimits:
    """A binary search for the largest number of texts that an endpoint accepts.

    ``accepted`` is the largest number that was accepted so far, ``refused`` the smallest that was refused, if any.
    Until the search has ended, a request of more texts than ``accepted`` (and than ALWAYS_SENT_TEXTS) is a trial. The
    caller runs one trial at a time.
    """

    def __init__(self, max_texts: int, *, known: bool) -> None:
        """``max_texts``: the number to try; ``known``: the endpoint is known to accept it."""
        self._max_texts = max_texts
        self.accepted = max_texts if known else 1
        self.refused: int | None = None

    @property
    def settled(self) -> bool:
        """Whether the search has ended."""
        return self.accepted >= self._max_texts or (self.refused is not None and self.refused - self.accepted <= 1)

    @property
    def request_texts(self) -> int:
        """The number of texts to send per request."""
        return self.accepted if self.settled else self._max_texts

    def needs_trial(self, texts: int) -> bool:
        return not self.settled and texts > max(self.accepted, ALWAYS_SENT_TEXTS)

    def trial_size(self, remaining: int) -> int:
        """How many of the ``remaining`` texts to send next.

        Half of ``refused``; if that many are known to be accepted, the middle of ``accepted`` and ``refused``.
        """
        if self.refused is None or self.settled:
            return min(remaining, self.request_texts)
        half = self.refused // 2
        return min(remaining, half if half > self.accepted else (self.accepted + self.refused) // 2)

    def record_accepted(self, texts: int) -> None:
        self.accepted = max(self.accepted, texts)
        if self.refused is not None and self.refused <= self.accepted:
            self.refused = None  # The refusal had another cause, or the endpoint accepts more than before.

    def record_refused(self, texts: int) -> None:
        """Records that a request was refused although none of its texts is known to be the cause."""
        self.refused = min(texts, self.refused or texts)
        if self.accepted >= self.refused:  # The endpoint accepts less than before.
            self.accepted = max(1, self.refused // 2)

    def set_stated(self, texts: int) -> None:
        """Sets the limit that an error message of the provider states."""
        self.accepted, self.refused = texts, texts + 1

    def reset_refused(self, sizes: list[int]) -> None:
        """Replaces the refusals by ``sizes``: those that no bad text explains."""
        self.refused = min(sizes, default=None)
