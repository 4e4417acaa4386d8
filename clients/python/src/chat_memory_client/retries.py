"""When a call is repeated, and after which time."""

import random
from dataclasses import dataclass

import httpx

REPEATED = frozenset({429, 503})
IN_FLIGHT = "request_in_flight"
FIRST_DELAY, MAX_DELAY = 0.25, 30.0


@dataclass(frozen=True, slots=True)
class Retries:
    """``most``: attempts after the first."""

    most: int

    def delay(self, attempt: int, answer: httpx.Response | None) -> float | None:
        """Seconds until the next attempt; None if this one was the last. ``answer`` None: the connection failed."""
        if attempt >= self.most or (answer is not None and not _can_be_repeated(answer)):
            return None
        wanted = FIRST_DELAY * 2.0**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - not for cryptography
        asked = answer.headers.get("retry-after", "") if answer is not None else ""
        return min(MAX_DELAY, max(wanted, float(asked) if asked.isdecimal() else 0.0))


def _can_be_repeated(answer: httpx.Response) -> bool:
    # A request with the same Idempotency-Key, such as the first attempt, may still be in progress.
    return answer.status_code in REPEATED or (answer.status_code == 409 and IN_FLIGHT in answer.text)
