"""Embeds batches at an endpoint: finds how many texts it accepts per request, and which text makes a batch fail."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

import openai

from app.core.embedding.port import TextResult, TextResults, concat_results
from app.core.embedding.providers import openai_reply, provider_errors
from app.core.embedding.providers.endpoint import EncodingFormat, Endpoint
from app.core.embedding.providers.learned_limits import LearnedLimits
from app.core.embedding.providers.provider_errors import StatedLimits
from app.core.embedding.providers.provider_requests import BAD_INPUT, ProviderRequests
from app.core.embedding.queue.batch_queue import Lane
from app.utils.errors import AppError, EmbedderUnavailable, TextRefused, Unavailable

PROBE = "ping"
PROBE_SECONDS = 5.0
NEXT_ENCODING: dict[EncodingFormat, EncodingFormat] = {"base64": "float", "float": "none"}
"""The encoding to try when one is refused."""

log = logging.getLogger(__name__)

OnRefusedText = Callable[[str, Lane, StatedLimits], Awaitable[TextResult]]
"""Makes the result of a text that the provider refuses in a request of its own, or that it has truncated."""
OnLimit = Callable[[StatedLimits], None]
"""Is called with a limit that was learned."""


class OpenAIClient:
    """``timeout``: seconds for one request with all its retries. Belongs to one event loop."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        endpoint: Endpoint,
        *,
        timeout: float,
        breaker_failures: int,
        breaker_pause: float,
        on_refused_text: OnRefusedText,
        on_limit: OnLimit,
    ) -> None:
        self._endpoint = endpoint
        self._on_refused_text = on_refused_text
        self._on_limit = on_limit
        self._requests = ProviderRequests(
            client, self.probe, timeout=timeout, breaker_failures=breaker_failures, breaker_pause=breaker_pause
        )
        self.breaker = self._requests.breaker
        self.requested_dimension: int | None = None
        """Sent with each request, if set."""
        self.dimension: int | None = None
        """The expected length of each vector, once it is known."""
        self.truncated_at: int | None = None
        """The provider silently truncates texts to this number of tokens; None if it does not, or it is not known."""
        self.last_success = -math.inf
        """When a request last succeeded, in the event loop's time."""
        self.encoding = endpoint.encoding_format
        self.limits = LearnedLimits(endpoint.request_texts, known=endpoint.limits_known)
        self._reported_texts = self.limits.request_texts
        self._trial = asyncio.Lock()

    async def embed(self, texts: list[str], lane: Lane) -> TextResults:
        """The results of the texts, in order, in as many requests as needed; raises nothing."""
        parts: list[TextResults] = []
        done = 0
        while done < len(texts):
            remaining = texts[done:] if done else texts
            if self.limits.needs_trial(len(remaining)):
                async with self._trial:
                    part = await self._embed_in_trials(remaining, lane)
            else:
                part = await self._embed_batch(remaining[: self.limits.request_texts], lane)
            done += len(part)
            if len(part):
                parts.append(part)
            if done < len(texts) and (unavailable := _unavailable(part)) is not None:
                parts.append([unavailable] * (len(texts) - done))
                break
        self._report_limit()
        results = concat_results(parts) if parts else []
        if not all(isinstance(result, AppError) for result in results):
            self.last_success = asyncio.get_running_loop().time()
        return results

    async def probe(self) -> int:
        """Embeds one word, without retries and breaker, and returns the vector's length. Raises AppError."""
        length, _ = await self.embed_once(PROBE, Lane.DOCUMENTS, PROBE_SECONDS)
        return length

    async def embed_once(self, text: str, lane: Lane, seconds: float) -> tuple[int, int | None]:
        """Embeds one text, without retries: the vector's length and the number of tokens that the provider counted.

        Raises AppError; its cause is the provider's error.
        """
        try:
            async with asyncio.timeout(min(seconds, self._requests.timeout)):
                content = await self._requests.post_once(self._endpoint.path, self._body([text], lane))
        except (openai.OpenAIError, TimeoutError) as exc:
            raise self._requests.unavailable(exc) from exc
        result = openai_reply.parse_vectors(content, 1, self.dimension)[0]
        if isinstance(result, AppError):
            raise result
        self.last_success = asyncio.get_running_loop().time()
        return len(result), openai_reply.prompt_tokens(content)

    def error_message(self, exc: openai.APIStatusError) -> str:
        return self._requests.error_message(exc)

    def use_next_encoding(self) -> bool:
        """Requests vectors in another encoding from now on; false if all were tried."""
        following = NEXT_ENCODING.get(self.encoding)
        if following is None:
            return False
        log.warning("the embedding provider refuses encoding_format=%s: using %s", self.encoding, following)
        self.encoding = following
        return True

    async def close(self) -> None:
        await self._requests.close()

    async def _embed_batch(self, texts: list[str], lane: Lane) -> TextResults:
        """The results of a number of texts that was accepted before.

        If the batch is refused, it is halved until the bad text is found. If there is none, there were too many texts.
        """
        try:
            results = await self._request(texts, lane)
        except AppError as exc:
            return [exc] * len(texts)
        except openai.APIStatusError as exc:
            if len(texts) == 1:
                return [await self._refused(texts[0], exc, lane)]
            if exc.status_code in BAD_INPUT and self._apply_stated_limit(exc, texts):
                return await self.embed(texts, lane)
            middle = len(texts) // 2
            halves = [await self._embed_batch(texts[:middle], lane), await self._embed_batch(texts[middle:], lane)]
            results = concat_results(halves)
            if exc.status_code in BAD_INPUT and not any(isinstance(result, AppError) for result in results):
                self.limits.record_refused(len(texts))
            return results
        self.limits.record_accepted(len(texts))
        return results

    async def _embed_in_trials(self, texts: list[str], lane: Lane) -> TextResults:
        """The results of the first texts, sent in requests that find the limit. Empty if the limit is known by now."""
        parts: list[TextResults] = []
        refusals: list[tuple[int, int]] = []  # (index of the first text, number of texts)
        done = 0
        # The texts of a refused request must be sent in smaller numbers first: a bad one among them would explain it.
        while done < len(texts) and (not self.limits.settled or any(at + many > done for at, many in refusals[-1:])):
            size = self.limits.trial_size(len(texts) - done)
            part = texts[done : done + size]
            if size <= self.limits.accepted:
                results = await self._embed_batch(part, lane)
            else:
                try:
                    results = await self._request(part, lane)
                except AppError as exc:
                    results = [exc] * len(part)
                except openai.APIStatusError as exc:
                    if exc.status_code not in BAD_INPUT:
                        results = await self._embed_batch(part, lane)
                    elif self._apply_stated_limit(exc, part):
                        continue
                    else:
                        refusals.append((done, size))
                        self.limits.record_refused(size)
                        continue
                else:
                    self.limits.record_accepted(size)
            bad = [done + index for index, result in enumerate(results) if _is_bad_text(result)]
            if bad:
                refusals = [(at, many) for at, many in refusals if not any(at <= index < at + many for index in bad)]
                self.limits.reset_refused([many for _, many in refusals])
            parts.append(results)
            done += len(results)
            if _unavailable(results) is not None:
                break
        return concat_results(parts) if parts else []

    async def _request(self, texts: list[str], lane: Lane) -> TextResults:
        """The results of one request. Raises EmbedderUnavailable, and APIStatusError if a text may be the cause."""
        while True:
            encoding = self.encoding
            try:
                content = await self._requests.post(
                    self._endpoint.path, self._body(texts, lane), several=len(texts) > 1
                )
            except openai.APIStatusError as exc:
                if not provider_errors.mentions_encoding(self._requests.error_message(exc, texts)):
                    raise
                if encoding == self.encoding and not self.use_next_encoding():
                    raise
            else:
                results = openai_reply.parse_vectors(content, len(texts), self.dimension)
                if self.truncated_at is not None and len(texts) == 1:
                    read = openai_reply.prompt_tokens(content)
                    if read is not None and read >= self.truncated_at:
                        limits = StatedLimits(input_tokens=self.truncated_at - 1)
                        return [await self._on_refused_text(texts[0], lane, limits)]
                return results

    async def _refused(self, text: str, exc: openai.APIStatusError, lane: Lane) -> TextResult:
        """The result of a text that is refused in a request of its own."""
        reason = self._requests.describe(exc, [text])
        log.warning("the embedding provider refuses a text of %d characters (%s)", len(text), reason)
        if exc.status_code in BAD_INPUT:
            message = self._requests.error_message(exc, [text])
            return await self._on_refused_text(text, lane, provider_errors.stated_limits(message, 1))
        return TextRefused("The embedding provider refuses this text.")

    def _apply_stated_limit(self, exc: openai.APIStatusError, texts: list[str]) -> bool:
        """Whether the error states how many texts a request may have; that limit is used from now on."""
        stated = provider_errors.stated_limits(self._requests.error_message(exc, texts), len(texts))
        if stated.texts is not None:
            self.limits.set_stated(stated.texts)
        elif stated.request_tokens is not None:
            self._on_limit(stated)
        return stated.texts is not None

    def _report_limit(self) -> None:
        """Calls ``on_limit`` if the number of texts per request has changed, unless a trial may change it again."""
        if self.limits.request_texts != self._reported_texts and not self._trial.locked():
            self._reported_texts = self.limits.request_texts
            self._on_limit(StatedLimits(texts=self._reported_texts))

    def _body(self, texts: list[str], lane: Lane) -> dict[str, object]:
        return self._endpoint.body(
            texts, query=lane is Lane.QUERY, encoding=self.encoding, dimensions=self.requested_dimension
        )


def _is_bad_text(result: TextResult) -> bool:
    """Whether the provider refused this text."""
    return isinstance(result, AppError) and not isinstance(result, Unavailable) and result.status == 422


def _unavailable(results: TextResults) -> AppError | None:
    """The error if every result is EmbedderUnavailable."""
    last = results[-1] if len(results) else None
    if isinstance(last, EmbedderUnavailable) and all(isinstance(result, EmbedderUnavailable) for result in results):
        return last
    return None
