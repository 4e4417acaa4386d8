"""The embedder for all providers over the network: OpenAI, and servers with its API such as vLLM, TEI and Ollama."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from app.core.embedding.long_text import LongText, halves, merged, split, too_long
from app.core.embedding.port import TextResult, TextResults, Vectors, stack_or_raise
from app.core.embedding.providers import tokens
from app.core.embedding.providers.endpoint import Endpoint
from app.core.embedding.providers.openai_client import OpenAIClient
from app.core.embedding.providers.openai_startup import SPECIAL_TOKENS, OpenAIStartup
from app.core.embedding.providers.provider_errors import StatedLimits
from app.core.embedding.providers.provider_requests import openai_client
from app.core.embedding.queue.batch_queue import BatchLimits, Lane, QueueOptions
from app.core.embedding.queue.dispatcher import Dispatcher
from app.utils.errors import AppError, EmbedderUnavailable, StartupError, TextRefused

QUEUE_TEXTS = 32_768
FRESH_SECONDS = 30.0
"""A ping sends no request if one has succeeded within this time."""

log = logging.getLogger(__name__)


class OpenAIEmbedder:
    """An Embedder over an Endpoint. ``dimension`` is 0 until the first ``ping`` has returned.

    ``wanted_dimension`` is requested if it is not the model's own. ``timeout``: seconds of a call, with its time in the
    queue and all retries. ``tokenizer``: a tokenizer.json to count tokens with.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        api_key: str | None = None,
        wanted_dimension: int | None = None,
        timeout: float = 20.0,
        start_timeout: float = 60.0,
        max_concurrency: int = 4,
        tokenizer: Path | None = None,
        queue: QueueOptions | None = None,
        long_text: LongText = "error",
        breaker_failures: int = 5,
        breaker_pause: float = 5.0,
    ) -> None:
        if api_key is None and endpoint.base_url is None:
            raise StartupError(
                "EMBEDDING_MODEL=openai needs OPENAI_API_KEY, or OPENAI_BASE_URL of a server without keys."
            )
        queue = queue or QueueOptions()
        self.model = endpoint.identity
        self.dimension = 0
        self.call_texts = endpoint.request_texts
        self._endpoint = endpoint
        self._timeout = timeout
        self._input_tokens = endpoint.input_tokens
        self._split = long_text == "split"
        self._exact_counter = tokens.file_counter(tokenizer) if tokenizer else tokens.exact_counter(endpoint.model)
        self._count = self._exact_counter or tokens.utf8_bytes
        self._prefix_tokens = {
            lane: self._count(prefix) if (prefix := endpoint.prefix(query=lane is Lane.QUERY)) else 0 for lane in Lane
        }
        self._client = OpenAIClient(
            openai_client(api_key, endpoint.base_url, timeout),
            endpoint,
            timeout=timeout,
            breaker_failures=breaker_failures,
            breaker_pause=breaker_pause,
            on_refused_text=self._refused_text,
            on_limit=self._set_limit,
        )
        self._startup = OpenAIStartup(
            self._client,
            endpoint,
            wanted_dimension=wanted_dimension,
            timeout=start_timeout,
            counts_tokens=self._exact_counter is not None,
        )
        self._queue = Dispatcher(
            self._client.embed,
            limits=BatchLimits(
                endpoint.request_texts,
                endpoint.request_tokens,
                by_length=False,
                queue=queue.queue_texts or QUEUE_TEXTS,
            ),
            max_concurrency=max_concurrency,
        )

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """As the port. Raises EmbedderUnavailable also if the call takes longer than its timeout."""
        return await self._embed(texts, Lane.DOCUMENTS)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self._embed(texts, Lane.QUERY)

    async def ping(self) -> None:
        """Probes the provider unless a request has just succeeded. The first call finds out the dimension.

        Raises EmbedderUnavailable; the first call StartupError.
        """
        if self.dimension == 0:
            self.dimension = await self._startup.run()
            self._input_tokens = self._startup.input_tokens
            return
        self._client.breaker.check()
        if asyncio.get_running_loop().time() - self._client.last_success > FRESH_SECONDS:
            await self._client.probe()

    async def close(self) -> None:
        await self._queue.close()
        await self._client.close()

    async def _embed(self, texts: Sequence[str], lane: Lane) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return stack_or_raise(await self._results(texts, lane))

    async def _results(self, texts: Sequence[str], lane: Lane) -> TextResults:
        self._client.breaker.check()
        weights = await self._weights(texts, lane)
        if max(weights) <= self._input_tokens:
            return await self._enqueue(texts, weights, lane)
        results: dict[int, TextResult] = {}
        parts: list[tuple[int, str, int]] = []  # (index of the text, part of it, weight)
        for index, (text, weight) in enumerate(zip(texts, weights, strict=True)):
            if weight <= self._input_tokens:
                parts.append((index, text, weight))
            elif self._exact_counter is None:
                # It may be too long; the provider decides. If the provider truncates, only the token count of a request
                # shows that, so the text goes alone: with the weight of a full batch.
                alone = self._client.truncated_at is not None
                parts.append((index, text, self._endpoint.request_tokens if alone else self._input_tokens))
            elif self._split:
                parts += [(index, part, self._tokens(part, lane)) for part in split(text, self._fits(lane))]
            else:
                results[index] = too_long(self._input_tokens)
        if parts:
            embedded = await self._enqueue([part[1] for part in parts], [part[2] for part in parts], lane)
            by_text: dict[int, list[tuple[str, TextResult]]] = {}
            for (index, part, _), result in zip(parts, embedded, strict=True):
                by_text.setdefault(index, []).append((part, result))
            for index, pairs in by_text.items():
                results[index] = pairs[0][1] if len(pairs) == 1 else _merged_result(pairs)
        return [results[index] for index in range(len(texts))]

    async def _enqueue(self, texts: Sequence[str], weights: Sequence[int], lane: Lane) -> TextResults:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._queue.encode(texts, weights, lane)
        except TimeoutError as exc:
            raise EmbedderUnavailable("The embedding provider did not answer in time.", retry_after=5) from exc

    async def _weights(self, texts: Sequence[str], lane: Lane) -> list[int]:
        """The tokens of each text with its prefix, or an upper bound of them."""
        more = self._prefix_tokens[lane] + (SPECIAL_TOKENS if self._client.truncated_at is not None else 0)
        if self._exact_counter is None:
            return [tokens.utf8_bytes(text) + more for text in texts]
        return await asyncio.to_thread(lambda: [self._count(text) + more for text in texts])

    def _tokens(self, text: str, lane: Lane) -> int:
        return self._count(text) + self._prefix_tokens[lane]

    def _fits(self, lane: Lane) -> Callable[[str], bool]:
        return lambda text: self._tokens(text, lane) <= self._input_tokens

    def _set_limit(self, limits: StatedLimits) -> None:
        """Uses a limit of a request that the client has learned."""
        log.info(
            "the embedding provider accepts at most %s %s per request: set %s so that it is known at start",
            limits.texts or limits.request_tokens,
            "texts" if limits.texts else "tokens",
            f"EMBEDDING_BATCH_SIZE={limits.texts}" if limits.texts else "OPENAI_MAX_REQUEST_TOKENS",
        )
        self._queue.set_limits(texts=limits.texts, weight=limits.request_tokens)

    async def _refused_text(self, text: str, lane: Lane, stated: StatedLimits) -> TextResult:
        """The result of a text that the provider refuses or truncates: TextTooLong or, if set, its halves' vector.

        TextRefused if the text cannot be too long.
        """
        if stated.input_tokens is not None:
            self._input_tokens = min(self._input_tokens, stated.input_tokens)
        elif self._fits(lane)(text):
            return TextRefused("The embedding provider refuses this text.")
        if not self._split or len(text) < 2:
            return too_long(self._input_tokens)
        parts = halves(text)
        # Each half in a request of its own, so that the token count shows if it is truncated.
        results = [result for part in parts for result in await self._client.embed([part], lane)]
        return _merged_result(list(zip(parts, results, strict=True)))


def _merged_result(pairs: Sequence[tuple[str, TextResult]]) -> TextResult:
    """The result of a text from its (part, result) pairs: the merged vector, or the first error."""
    vectors = []
    for _, result in pairs:
        if isinstance(result, AppError):
            return result
        vectors.append(result)
    return merged(np.stack(vectors), [part for part, _ in pairs])
