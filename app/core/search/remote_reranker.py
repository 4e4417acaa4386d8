"""A reranker on another server, by the API of TEI, vLLM, Jina or Cohere."""

import asyncio
import logging
import math
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import openai
import orjson

from app.core.embedding.providers.provider_errors import stated_limits
from app.core.embedding.providers.provider_requests import BAD_INPUT, ProviderRequests, openai_client
from app.core.search.rerank import PairLimiter
from app.utils.errors import RerankerUnavailable, RerankInvalid, StartupError

RerankApi = Literal["tei", "vllm", "jina", "cohere"]
MAX_CONCURRENCY = 8
"""Requests to the reranker at a time."""
PROBE_TEXT = "ping"
INVALID_ANSWER = "The reranker's answer cannot be used."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _ApiFormat:
    """How requests and answers look.

    ``documents`` and ``score``: names of their fields. ``max_texts``: passages in one request, as far as known; a lower
    limit is learned from refusals. ``options``: fields that every request has.
    """

    documents: str
    score: str
    max_texts: int
    options: Mapping[str, Any]


API_FORMATS: Mapping[RerankApi, _ApiFormat] = {
    # A pair that is too long for the model is truncated, as by the cross-encoder in process, and so still gets a score.
    "tei": _ApiFormat("texts", "score", 32, {"truncate": True}),
    "vllm": _ApiFormat("documents", "relevance_score", 1_000, {"truncate_prompt_tokens": -1}),
    "jina": _ApiFormat("documents", "relevance_score", 1_000, {"return_documents": False}),
    "cohere": _ApiFormat("documents", "relevance_score", 1_000, {}),
}
"""https://huggingface.github.io/text-embeddings-inference, https://docs.vllm.ai/en/stable/models/pooling_models/,
https://jina.ai/reranker/, https://docs.cohere.com/reference/rerank."""


class RemoteReranker:
    """``timeout``: seconds for a call of ``scores``, with the time in the queue and all retries."""

    def __init__(
        self,
        url: str,
        api: RerankApi,
        model: str | None,
        top_n: int,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        breaker_failures: int = 5,
        breaker_pause: float = 5.0,
    ) -> None:
        self.model = model or api
        self.top_n = top_n
        self._name = model
        self._format = API_FORMATS[api]
        self._max_texts = self._format.max_texts
        self._timeout = timeout
        parts = urlsplit(url)
        folder, _, last = parts.path.rstrip("/").rpartition("/")
        self._path = f"/{last}"
        self._requests = ProviderRequests(
            openai_client(api_key, urlunsplit(parts._replace(path=folder)), timeout),
            self._probe,
            timeout=timeout,
            breaker_failures=breaker_failures,
            breaker_pause=breaker_pause,
            name="reranker",
            error=RerankerUnavailable,
        )
        self._slots = asyncio.Semaphore(MAX_CONCURRENCY)
        self._limiter = PairLimiter()

    @classmethod
    async def open(cls, *given: Any, **more: Any) -> Self:
        """Sends one request. Accepts an unavailable reranker. Raises StartupError for what waiting does not cure."""
        reranker = cls(*given, **more)
        try:
            await reranker._probe()
        except RerankerUnavailable as exc:
            cause = exc.__cause__
            status = cause.status_code if isinstance(cause, openai.APIStatusError) else 0
            if isinstance(cause, openai.APIStatusError) and 400 <= status < 500 and status != 429:
                await reranker.close()
                said = reranker._requests.error_message(cause)
                raise StartupError(
                    f"The reranker refuses this server with {status}"
                    + (f" and says: {said!r}. " if said else ". ")
                    + "Check RERANK_URL, RERANK_API, RERANK_MODEL and RERANK_API_KEY."
                ) from exc
            log.warning("starting without the reranker: %s", exc)
        except RerankInvalid as exc:
            await reranker.close()
            raise StartupError(f"{exc} Check RERANK_URL and RERANK_API.") from exc
        return reranker

    async def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        if not pairs:
            return []
        self._requests.breaker.check()
        indexes_by_query: dict[str, list[int]] = {}
        for index, (query, _) in enumerate(pairs):
            indexes_by_query.setdefault(query, []).append(index)
        try:
            with self._limiter.admit(len(pairs)):
                async with asyncio.timeout(self._timeout):
                    parts = await _all(
                        self._scores_for(query, [pairs[index][1] for index in indexes])
                        for query, indexes in indexes_by_query.items()
                    )
        except TimeoutError as exc:
            raise RerankerUnavailable("The reranker did not answer in time.", retry_after=2) from exc
        found = [0.0] * len(pairs)
        for indexes, scores in zip(indexes_by_query.values(), parts, strict=True):
            for index, score in zip(indexes, scores, strict=True):
                found[index] = score
        return found

    async def close(self) -> None:
        await self._requests.close()

    async def _scores_for(self, query: str, passages: list[str]) -> list[float]:
        parts = [passages[start : start + self._max_texts] for start in range(0, len(passages), self._max_texts)]
        if len(parts) > 1:
            return [score for scores in await _all(self._scores_for(query, part) for part in parts) for score in scores]
        try:
            async with self._slots:
                content = await self._requests.post(self._path, self._body(query, passages), several=False)
        except openai.APIStatusError as exc:
            said = self._requests.describe(exc, [query, *passages])
            if exc.status_code not in BAD_INPUT or len(passages) == 1:
                log.warning("the reranker refuses a query with one of its passages (%s)", said)
                raise RerankInvalid("The reranker refuses this query with one of its passages.") from exc
            limit = stated_limits(said.partition(": ")[2], len(passages)).texts or len(passages) // 2
            if limit < self._max_texts:
                log.info("the reranker refuses %d passages in one request (%s): sending %d", len(passages), said, limit)
                self._max_texts = limit
            return await self._scores_for(query, passages)
        return _scores(content, len(passages), self._format.score)

    def _body(self, query: str, passages: list[str]) -> dict[str, Any]:
        named = {"model": self._name} if self._name else {}
        return {**named, "query": query, self._format.documents: passages, **self._format.options}

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                content = await self._requests.post_once(self._path, self._body(PROBE_TEXT, [PROBE_TEXT]))
        except (openai.OpenAIError, TimeoutError) as exc:
            raise self._requests.unavailable(exc) from exc
        _scores(content, 1, self._format.score)


async def _all(calls: Iterable[Coroutine[Any, Any, list[float]]]) -> list[list[float]]:
    """Runs the calls concurrently. The first error cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _scores(content: bytes, count: int, field: str) -> list[float]:
    """The scores in the order of the passages. Raises RerankInvalid unless there is one finite score for each."""
    try:
        answer = orjson.loads(content)
        results = answer if isinstance(answer, list) else answer["results"]
        found = {int(one["index"]): float(one[field]) for one in results}
    except (KeyError, TypeError, ValueError) as exc:
        raise RerankInvalid(INVALID_ANSWER) from exc
    if len(results) != count or found.keys() != set(range(count)) or not all(map(math.isfinite, found.values())):
        raise RerankInvalid(INVALID_ANSWER)
    return [found[index] for index in range(count)]
