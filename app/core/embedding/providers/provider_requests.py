"""Requests to a provider over HTTP: tried again, and given up within a deadline."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import openai
import orjson

from app.core.embedding.providers import provider_message
from app.core.embedding.queue.circuit_breaker import CircuitBreaker
from app.utils.errors import EmbedderUnavailable, Unavailable

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between tries, doubled each time, with jitter."""
TOO_MUCH = (400, 413, 422)
"""Refusals that may be one text's fault, or that of how many there are."""
TRIES_OF_500 = 2
NO_KEY = "none"
"""Sent to a server that wants no key: the client does not do without."""

log = logging.getLogger(__name__)


class ProviderRequests:
    """``name`` is how messages call the provider; ``away`` what is raised when it does not answer.

    ``deadline`` is the seconds that one request with all its repetitions may take. ``probe`` finds out for the
    circuit breaker whether the provider is back.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        probe: Callable[[], Awaitable[object]],
        *,
        deadline: float,
        breaker_failures: int,
        breaker_pause: float,
        name: str = "embedding provider",
        away: type[Unavailable] = EmbedderUnavailable,
    ) -> None:
        self._client = client
        self._name = name
        self._away = away
        self.deadline = deadline
        self.breaker = CircuitBreaker(probe, failures=breaker_failures, pause=breaker_pause, name=name, away=away)

    async def close(self) -> None:
        await self.breaker.close()
        await self._client.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The answer's body, asked for once. Raises openai.APIError."""
        # embeddings.create would look through the texts one by one, and hold the event loop for as long.
        answer = await self._client.post(path, content=orjson.dumps(body), cast_to=openai.HttpxBinaryResponseContent)
        return answer.content

    async def answer(self, path: str, body: Mapping[str, Any], *, several: bool) -> bytes:
        """The answer's body, tried again until the deadline.

        Raises ``away``, and APIStatusError for what may be the fault of a text, or with ``several`` of one of them.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.deadline
        tries = 0
        while True:
            self.breaker.check()
            tries += 1
            try:
                async with asyncio.timeout_at(end):
                    content = await self.post(path, body)
            except (openai.APIError, TimeoutError) as exc:
                status = exc.status_code if isinstance(exc, openai.APIStatusError) else None
                if status in TOO_MUCH:
                    self.breaker.succeeded()
                    raise
                pause = _pause(exc, tries)
                # Some servers answer 500 to a text that gives NaN, and so to each batch that holds it: that is no
                # sign of their being away before single texts fail too.
                given_up = not _may_pass(exc) or loop.time() + pause >= end or (status == 500 and tries == TRIES_OF_500)
                if given_up and status == 500 and several:
                    raise
                if status != 429 and (status != 500 or given_up):
                    self.breaker.failed()
                if given_up:
                    log.warning("gave up on the %s after %d tries: %s", self._name, tries, self.told(exc))
                    raise self.unavailable(exc, pause) from exc
                log.info("the %s failed (%s), trying again in %.1f s", self._name, self.told(exc), pause)
                await asyncio.sleep(pause)
            else:
                self.breaker.succeeded()
                return content

    def unavailable(self, exc: BaseException, pause: float = 1.0) -> Unavailable:
        """What callers are told: nothing of the provider's own words."""
        if isinstance(exc, openai.APIStatusError):
            if exc.status_code in (401, 403, 404):
                detail = f"The {self._name} refuses this server ({exc.status_code}): its key, model or URL is wrong."
                return self._away(detail, retry_after=60)
            if exc.status_code == 429:
                return self._away(f"The {self._name} is at its limit.", retry_after=max(1, math.ceil(pause)))
        return self._away(f"The {self._name} does not answer.", retry_after=max(1, math.ceil(pause)))

    def told(self, exc: BaseException, texts: Sequence[str] = ()) -> str:
        """For the log: the status and the provider's own sentence, without secrets and texts."""
        if not isinstance(exc, openai.APIStatusError):
            return type(exc).__name__
        said = self.sentence(exc, texts)
        return f"{exc.status_code}: {said}" if said else str(exc.status_code)

    def sentence(self, exc: openai.APIStatusError, texts: Sequence[str] = ()) -> str:
        """The provider's own words, as ``provider_message.sentence`` has them."""
        key = self._client.api_key
        return provider_message.sentence(exc, [] if key == NO_KEY else [key], texts)


def connected(api_key: str | None, base_url: str | None, timeout: float) -> openai.AsyncOpenAI:
    """A client that repeats nothing itself. A query in the URL (Azure's ?api-version=) goes with each request, and
    the key also as the header api-key to a URL that is not OpenAI's own."""
    parts = urlsplit(base_url or "")
    return openai.AsyncOpenAI(
        api_key=api_key or NO_KEY,
        base_url=urlunsplit(parts._replace(query="")) if base_url else "https://api.openai.com/v1",
        default_query=dict(parse_qsl(parts.query)),
        default_headers={"api-key": api_key} if base_url and api_key else None,
        timeout=timeout,
        max_retries=0,
        # Reads answers in C: a third less work for a question, and for a hundred vectors.
        http_client=openai.DefaultAioHttpClient(),
    )


def retry_after(headers: Any) -> float:
    """Seconds that the provider asks to wait; 0 if it does not."""
    with suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    with suppress(ValueError):
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return 0.0


def _pause(exc: Exception, tries: int) -> float:
    """Full jitter (Brooker, "Exponential Backoff And Jitter", 2015) over what Retry-After asks for."""
    backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tries - 1))
    asked = retry_after(exc.response.headers) if isinstance(exc, openai.APIStatusError) else 0.0
    return asked + random.uniform(backoff / 2, backoff)  # noqa: S311 - nothing secret


def _may_pass(exc: Exception) -> bool:
    """Whether another try may do better."""
    if not isinstance(exc, openai.APIStatusError):
        return isinstance(exc, openai.APIConnectionError)
    if exc.status_code == 429:
        return exc.code != "insufficient_quota"
    return exc.status_code in (408, 409) or exc.status_code >= 500
