"""Which faults a run has and how often, drawn from its seed."""

from dataclasses import dataclass
from random import Random
from typing import Literal

Fate = Literal["ok", "refused", "lost", "late", "again", "partial"]
"""What happens to a call. refused: an error, nothing is done. lost: done, but the caller gets an error. late: an error,
and it is done up to LATE_WRITE_WINDOW later. again: done, and done once more up to LATE_WRITE_WINDOW later. partial:
half is done, then an error."""

LEASE = 4.0
LATE_WRITE_WINDOW = 3.0
"""Seconds that a write to Milvus may still land after its call has ended."""
CHECK = 5.0
"""Seconds between two counts of a bot's rows."""
KEEP_RECENT = 1.5
"""Seconds for which recent_vectors keeps vectors."""
IDLE = 0.5
"""Seconds for which a collection is not released after its last use."""
PATIENCE = 1.0
"""Seconds until a caller gets a timeout error."""

FATES: dict[str, tuple[Fate, ...]] = {
    "database": ("refused", "lost"),
    "embedder": ("refused",),
    "upsert": ("refused", "lost", "late", "again", "partial"),
    "delete": ("refused", "lost", "late", "partial"),
    "create": ("refused", "lost"),
    "drop": ("refused", "lost"),
    "read": ("refused",),
}
LOADS: dict[str, tuple[str, tuple[Fate, ...]]] = {
    "load": ("create", ("refused", "lost")),
    "release": ("drop", ("refused", "lost", "late")),
}
"""Calls whose faults are as frequent as those of another kind, so that the kept seeds do not change."""
LANDS_LATE = frozenset({"upsert", "delete", "release"})


@dataclass(frozen=True, slots=True)
class Faults:
    """``rates`` are probabilities of a fault in a call, by kind; ``crashes`` and ``pauses`` are means for a run."""

    rates: dict[str, float]
    slow: float = 0.0
    lag: float = 0.3
    crashes: float = 0.0
    pauses: float = 0.0
    cancels: float = 0.0

    @classmethod
    def drawn(cls, random: Random) -> "Faults":
        """Some kinds of fault are frequent, others absent: a run with all faults at once would do no work."""

        def some(most: float) -> float:
            return random.random() * most if random.random() < 0.5 else 0.0

        rates = {kind: some(0.3 if kind in LANDS_LATE else 0.1) for kind in FATES}
        return cls(rates, some(0.1), random.choice((0.0, 0.1, 0.5, 2.0)), some(3), some(3), some(0.2))

    @classmethod
    def none(cls) -> "Faults":
        return cls({})

    def fate(self, kind: str, random: Random) -> Fate:
        like, fates = LOADS.get(kind) or (kind, FATES[kind])
        if random.random() >= self.rates.get(like, 0.0):
            return "ok"
        return random.choice(fates)

    def delay(self, random: Random) -> float:
        """Seconds that the request or the answer of a call takes."""
        if random.random() < self.slow:
            return 0.05 + random.random() * PATIENCE * 1.5
        return 0.001 + 0.02 * random.random() ** 3
