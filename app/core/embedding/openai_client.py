"""One request to an embeddings API that speaks as OpenAI's: tried again, halved, and given up within a deadline."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai
import orjson

from app.core.embedding import openai_reply
from app.core.embedding.breaker import Breaker
from app.core.embedding.port import Row, Rows, chained
from app.utils.errors import AppError, EmbedderUnavailable, TextRefused

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between tries, doubled each time, with jitter."""
TOO_MUCH = (400, 413, 422)
"""Refusals that may be one text's fault."""
TRIES_OF_500 = 2
PROBE = "ping"
PROBE_SECONDS = 5.0

log = logging.getLogger(__name__)

WhenRefused = Callable[[str], Awaitable[Row]]


class OpenAIClient:
    """``deadline`` is the seconds that one request with all its repetitions may take.

    ``when_refused`` makes a row of a text that the provider refuses by itself.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        model: str,
        *,
        deadline: float,
        breaker_failures: int,
        breaker_pause: float,
        when_refused: WhenRefused | None = None,
    ) -> None:
        self._client = client
        self._model = model
        self._deadline = deadline
        self._when_refused = when_refused
        self.breaker = Breaker(self.probe, failures=breaker_failures, pause=breaker_pause)
        self.dimensions: int | None = None
        """Sent with each request, if set."""
        self.expected: int | None = None
        """Length of each vector, once it is known."""

    async def rows(self, texts: list[str]) -> Rows:
        """A row for each text; raises nothing. A batch that is refused is halved until the bad text is found."""
        try:
            content = await self._answer(texts)
        except AppError as exc:
            return [exc] * len(texts)
        except openai.APIStatusError as exc:
            if len(texts) > 1:
                middle = len(texts) // 2
                return chained([await self.rows(texts[:middle]), await self.rows(texts[middle:])])
            log.warning("the embedding provider refuses a text of %d characters (%d)", len(texts[0]), exc.status_code)
            if self._when_refused is not None and exc.status_code in TOO_MUCH:
                return [await self._when_refused(texts[0])]
            return [TextRefused("The embedding provider refuses this text.")]
        return openai_reply.rows(content, len(texts), self.expected)

    async def probe(self) -> int:
        """Embeds one word, once, past the breaker; the length of its vector. Raises AppError."""
        try:
            async with asyncio.timeout(min(PROBE_SECONDS, self._deadline)):
                content = await self._send([PROBE])
        except (openai.OpenAIError, TimeoutError) as exc:
            raise _unavailable(exc) from exc
        row = openai_reply.rows(content, 1, self.expected)[0]
        if isinstance(row, AppError):
            raise row
        return len(row)

    async def close(self) -> None:
        await self.breaker.close()
        await self._client.close()

    async def _answer(self, texts: list[str]) -> bytes:
        """The answer's body. Raises EmbedderUnavailable, and APIStatusError for what may be one text's fault."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._deadline
        tries = 0
        while True:
            self.breaker.check()
            tries += 1
            try:
                async with asyncio.timeout_at(end):
                    content = await self._send(texts)
            except (openai.APIError, TimeoutError) as exc:
                status = exc.status_code if isinstance(exc, openai.APIStatusError) else None
                if status in TOO_MUCH:
                    self.breaker.succeeded()
                    raise
                pause = self._pause(exc, tries)
                # Some servers answer 500 to a text that gives NaN, and so to each batch that holds it: that is no
                # sign of their being away before single texts fail too.
                given_up = not _may_pass(exc) or loop.time() + pause >= end or (status == 500 and tries == TRIES_OF_500)
                if given_up and status == 500 and len(texts) > 1:
                    raise
                if status != 429 and (status != 500 or given_up):
                    self.breaker.failed()
                if given_up:
                    log.warning("gave up on the embedding provider after %d tries: %s", tries, _word(exc))
                    raise _unavailable(exc, pause) from exc
                log.info("the embedding provider failed (%s), trying again in %.1f s", _word(exc), pause)
                await asyncio.sleep(pause)
            else:
                self.breaker.succeeded()
                return content

    async def _send(self, texts: list[str]) -> bytes:
        request: dict[str, Any] = {"model": self._model, "input": texts, "encoding_format": "base64"}
        if self.dimensions is not None:
            request["dimensions"] = self.dimensions
        # embeddings.create would look through the texts one by one, and hold the event loop for as long.
        answer = await self._client.post(
            "/embeddings", content=orjson.dumps(request), cast_to=openai.HttpxBinaryResponseContent
        )
        return answer.content

    def _pause(self, exc: Exception, tries: int) -> float:
        """Full jitter (Brooker, "Exponential Backoff And Jitter", 2015) over what Retry-After asks for."""
        backoff = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tries - 1))
        asked = retry_after(exc.response.headers) if isinstance(exc, openai.APIStatusError) else 0.0
        return asked + random.uniform(backoff / 2, backoff)  # noqa: S311 - nothing secret


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


def _may_pass(exc: Exception) -> bool:
    """Whether another try may do better."""
    if not isinstance(exc, openai.APIStatusError):
        return isinstance(exc, openai.APIConnectionError)
    if exc.status_code == 429:
        return exc.code != "insufficient_quota"
    return exc.status_code in (408, 409) or exc.status_code >= 500


def _unavailable(exc: BaseException, pause: float = 1.0) -> EmbedderUnavailable:
    if isinstance(exc, openai.APIStatusError):
        if exc.status_code in (401, 403, 404):
            detail = f"The embedding provider refuses this server ({exc.status_code}): its key, model or URL is wrong."
            return EmbedderUnavailable(detail, retry_after=60)
        if exc.status_code == 429:
            return EmbedderUnavailable("The embedding provider is at its limit.", retry_after=max(1, math.ceil(pause)))
    return EmbedderUnavailable("The embedding provider does not answer.", retry_after=max(1, math.ceil(pause)))


def _word(exc: Exception) -> str:
    return str(exc.status_code) if isinstance(exc, openai.APIStatusError) else type(exc).__name__
