"""HTTP requests to a provider, with retries within a deadline, a circuit breaker and translated errors."""

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

from app.core.embedding.providers import provider_errors
from app.core.embedding.queue.circuit_breaker import CircuitBreaker
from app.utils.errors import EmbedderUnavailable, Unavailable

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between tries, doubled each time, with jitter."""
BAD_INPUT = (400, 413, 422)
"""Status codes whose cause may be one text or the number of texts."""
TRIES_OF_500 = 2
"""Tries of a request that is answered 500 each time."""
NO_KEY = "none"
"""The client needs a key; this one is sent to a server that requires none."""

log = logging.getLogger(__name__)


class ProviderRequests:
    """``timeout``: seconds for one request with all its retries. ``probe``: see ``CircuitBreaker``.

    ``name`` is the provider's name in messages, ``error`` the exception that is raised when it does not answer.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        probe: Callable[[], Awaitable[object]],
        *,
        timeout: float,
        breaker_failures: int,
        breaker_pause: float,
        name: str = "embedding provider",
        error: type[Unavailable] = EmbedderUnavailable,
    ) -> None:
        self._client = client
        self._name = name
        self._error = error
        self.timeout = timeout
        self.breaker = CircuitBreaker(probe, failures=breaker_failures, pause=breaker_pause, name=name, error=error)

    async def close(self) -> None:
        await self.breaker.close()
        await self._client.close()

    async def post_once(self, path: str, body: Mapping[str, Any]) -> bytes:
        """Sends one request, without retries, and returns the response's body. Raises openai.APIError."""
        # client.embeddings.create would inspect every text, on the event loop.
        response = await self._client.post(path, content=orjson.dumps(body), cast_to=openai.HttpxBinaryResponseContent)
        return response.content

    async def post(self, path: str, body: Mapping[str, Any], *, several: bool) -> bytes:
        """Sends a request, with retries, and returns the response's body.

        ``several``: the body has more than one text. Raises ``error``, and openai.APIStatusError if a text may be the
        cause: for the status codes BAD_INPUT, and with ``several`` also for 500.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        tries = 0
        while True:
            self.breaker.check()
            tries += 1
            try:
                async with asyncio.timeout_at(deadline):
                    content = await self.post_once(path, body)
            except (openai.APIError, TimeoutError) as exc:
                status = exc.status_code if isinstance(exc, openai.APIStatusError) else None
                if status in BAD_INPUT:
                    self.breaker.succeeded()
                    raise
                pause = _pause(exc, tries)
                # Some servers answer 500 to a text whose vector is NaN, and so to every batch that contains it. A 500
                # counts as a failure of the provider only if single texts fail too.
                give_up = (
                    not _is_retryable(exc)
                    or loop.time() + pause >= deadline
                    or (status == 500 and tries == TRIES_OF_500)
                )
                if give_up and status == 500 and several:
                    raise
                if status != 429 and (status != 500 or give_up):
                    self.breaker.failed()
                if give_up:
                    log.warning("gave up on the %s after %d tries: %s", self._name, tries, self.describe(exc))
                    raise self.unavailable(exc, pause) from exc
                log.info("the %s failed (%s), trying again in %.1f s", self._name, self.describe(exc), pause)
                await asyncio.sleep(pause)
            else:
                self.breaker.succeeded()
                return content

    def unavailable(self, exc: BaseException, pause: float = 1.0) -> Unavailable:
        """The error for callers of the API. It contains nothing of the provider's own message."""
        if isinstance(exc, openai.APIStatusError):
            if exc.status_code in (401, 403, 404):
                detail = f"The {self._name} refuses this server ({exc.status_code}): its key, model or URL is wrong."
                return self._error(detail, retry_after=60)
            if exc.status_code == 429:
                return self._error(f"The {self._name} is at its limit.", retry_after=max(1, math.ceil(pause)))
        return self._error(f"The {self._name} does not answer.", retry_after=max(1, math.ceil(pause)))

    def describe(self, exc: BaseException, texts: Sequence[str] = ()) -> str:
        """For the log: the status and the provider's error message, without secrets and ``texts``."""
        if not isinstance(exc, openai.APIStatusError):
            return type(exc).__name__
        message = self.error_message(exc, texts)
        return f"{exc.status_code}: {message}" if message else str(exc.status_code)

    def error_message(self, exc: openai.APIStatusError, texts: Sequence[str] = ()) -> str:
        """The provider's error message without the key and ``texts``, see ``provider_errors.error_message``."""
        key = self._client.api_key
        return provider_errors.error_message(exc, [] if key == NO_KEY else [key], texts)


def openai_client(api_key: str | None, base_url: str | None, timeout: float) -> openai.AsyncOpenAI:
    """A client without retries of its own.

    A query in the URL, such as Azure's ?api-version=, is sent with each request. To a URL other than OpenAI's the key
    is also sent in the header api-key.
    """
    parts = urlsplit(base_url or "")
    return openai.AsyncOpenAI(
        api_key=api_key or NO_KEY,
        base_url=urlunsplit(parts._replace(query="")) if base_url else "https://api.openai.com/v1",
        default_query=dict(parse_qsl(parts.query)),
        default_headers={"api-key": api_key} if base_url and api_key else None,
        timeout=timeout,
        max_retries=0,
        # aiohttp parses responses in C: a third less CPU time, for one query as for a hundred vectors.
        http_client=openai.DefaultAioHttpClient(),
    )


def retry_after(headers: Any) -> float:
    """The seconds of Retry-After-Ms or Retry-After; 0 without them."""
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
    """Seconds before the next try: Retry-After plus exponential backoff with jitter (Brooker 2015)."""
    backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tries - 1))
    requested = retry_after(exc.response.headers) if isinstance(exc, openai.APIStatusError) else 0.0
    return requested + random.uniform(backoff / 2, backoff)  # noqa: S311 - nothing secret


def _is_retryable(exc: Exception) -> bool:
    if not isinstance(exc, openai.APIStatusError):
        return isinstance(exc, openai.APIConnectionError)
    if exc.status_code == 429:
        return exc.code != "insufficient_quota"
    return exc.status_code in (408, 409) or exc.status_code >= 500
