"""OpenAI's embeddings, or those of any server that speaks as OpenAI's does: vLLM, TEI, Ollama, Azure."""

import asyncio
import logging
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import numpy as np
import openai

from app.core.embedding import tokens
from app.core.embedding.dispatcher import Dispatcher
from app.core.embedding.long_text import LongText, halves, merged, split, too_long
from app.core.embedding.openai_client import OpenAIClient
from app.core.embedding.port import Row, Rows, TextsFailed, Vectors, collected
from app.core.embedding.waiting import Lane, Limits
from app.utils.errors import AppError, EmbedderUnavailable, StartupError, TextRefused

REQUEST_TEXTS = 2_048
REQUEST_TOKENS = 300_000
INPUT_TOKENS = 8_192
"""OpenAI's limits (https://platform.openai.com/docs/api-reference/embeddings/create)."""
QUEUE_TEXTS = 32_768
DIMENSIONS = {"text-embedding-3-small": 1_536, "text-embedding-3-large": 3_072, "text-embedding-ada-002": 1_536}
FRESH_SECONDS = 30.0
"""A ping trusts a success as old as this and costs nothing."""
START_PAUSE = 0.5

log = logging.getLogger(__name__)


class OpenAIEmbedder:
    """``dimension`` 0 until the first ``ping`` has returned, where the model's own is not known.

    ``wanted_dimension`` is asked for where it is not the model's own. ``timeout`` bounds a call, its time in the
    queue and all repetitions included.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        wanted_dimension: int | None = None,
        timeout: float = 20.0,
        start_timeout: float = 60.0,
        in_flight: int = 4,
        input_tokens: int = INPUT_TOKENS,
        request_tokens: int = REQUEST_TOKENS,
        batch_texts: int | None = None,
        batch_wait: float = 0.0,
        queue_texts: int | None = None,
        long_text: LongText = "refuse",
        breaker_failures: int = 5,
        breaker_pause: float = 5.0,
    ) -> None:
        self.model = f"openai:{model}"
        self.dimension = 0
        self.call_texts = batch_texts or REQUEST_TEXTS
        self._name = model
        self._wanted = wanted_dimension
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._input_tokens = input_tokens
        self._split = long_text == "split"
        self._exact = tokens.exact_counter(model)
        self._count = self._exact or tokens.utf8_bytes
        self._last_success = -FRESH_SECONDS
        self._client = OpenAIClient(
            _connected(api_key, base_url, timeout),
            model,
            deadline=timeout,
            breaker_failures=breaker_failures,
            breaker_pause=breaker_pause,
            when_refused=self._refused,
        )
        self._queue = Dispatcher(
            self._client.rows,
            limits=Limits(
                self.call_texts, request_tokens, wait=batch_wait, alike=False, queue=queue_texts or QUEUE_TEXTS
            ),
            in_flight=in_flight,
        )

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """As the port; raises EmbedderUnavailable as well when the call takes longer than its timeout."""
        return await self._embed(texts, Lane.DOCUMENTS)

    async def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return await self._embed(texts, Lane.QUERY)

    async def ping(self) -> None:
        """Asks the provider, unless it has answered lately. Raises EmbedderUnavailable; the first time StartupError."""
        if self.dimension == 0:
            await self._start()
            return
        self._client.breaker.check()
        loop = asyncio.get_running_loop()
        if loop.time() - self._last_success > FRESH_SECONDS:
            await self._client.probe()
            self._last_success = loop.time()

    async def close(self) -> None:
        await self._queue.close()
        await self._client.close()

    async def _embed(self, texts: Sequence[str], lane: Lane) -> Vectors:
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return collected(await self._rows(texts, lane))

    async def _rows(self, texts: Sequence[str], lane: Lane) -> Rows:
        self._client.breaker.check()
        weights = await self._weigh(texts)
        if max(weights) <= self._input_tokens:
            return await self._sent(texts, weights, lane)
        rows: list[Row | None] = [None] * len(texts)
        parts: list[tuple[int, str, int]] = []
        for index, (text, weight) in enumerate(zip(texts, weights, strict=True)):
            if weight <= self._input_tokens or self._exact is None:
                # What may be too long, but is not known to be, is for the provider to judge.
                parts.append((index, text, min(weight, self._input_tokens)))
            elif self._split:
                parts += [(index, part, self._count(part)) for part in split(text, self._fits)]
            else:
                rows[index] = too_long(self._input_tokens)
        if parts:
            sent = await self._sent([part[1] for part in parts], [part[2] for part in parts], lane)
            found: dict[int, list[tuple[str, Row]]] = {}
            for (index, part, _), row in zip(parts, sent, strict=True):
                found.setdefault(index, []).append((part, row))
            for index, pairs in found.items():
                rows[index] = pairs[0][1] if len(pairs) == 1 else _joined(pairs)
        return [row if row is not None else TextRefused("The embedding provider gave no answer.") for row in rows]

    async def _sent(self, texts: Sequence[str], weights: Sequence[int], lane: Lane) -> Rows:
        try:
            async with asyncio.timeout(self._timeout):
                rows = await self._queue.encode(texts, weights, lane)
        except TimeoutError as exc:
            raise EmbedderUnavailable("The embedding provider did not answer in time.", retry_after=5) from exc
        if not all(isinstance(row, AppError) for row in rows):
            self._last_success = asyncio.get_running_loop().time()
        return rows

    async def _weigh(self, texts: Sequence[str]) -> list[int]:
        if self._exact is None:
            return [tokens.utf8_bytes(text) for text in texts]
        return await asyncio.to_thread(lambda: [self._count(text) for text in texts])

    def _fits(self, text: str) -> bool:
        return self._count(text) <= self._input_tokens

    async def _refused(self, text: str) -> Row:
        """A text that the provider refuses by itself: too long, if it may be; then it is split, if that is set."""
        if self._fits(text):
            return TextRefused("The embedding provider refuses this text.")
        if not self._split:
            return too_long(self._input_tokens)
        parts = halves(text)
        return _joined(list(zip(parts, await self._client.rows(list(parts)), strict=True)))

    async def _start(self) -> None:
        """Finds out the dimension. A model that is known may be away; of others the provider must say it."""
        known = DIMENSIONS.get(self._name)
        if known is not None:
            if self._wanted is not None and self._wanted != known:
                if self._wanted > known or self._name == "text-embedding-ada-002":
                    raise StartupError(f"EMBEDDING_DIMENSION={self._wanted}, but {self._name} makes {known}.")
                self._client.dimensions = self._wanted
            self.dimension = self._client.expected = self._wanted or known
            try:
                await self._probe_at_start()
            except EmbedderUnavailable as exc:
                log.warning("starting without the embedding provider: %s", exc)
            return
        self.dimension = await self._discover()
        self._client.expected = self.dimension

    async def _discover(self) -> int:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._start_timeout
        while True:
            try:
                own = await self._probe_at_start()
                if self._wanted in (None, own):
                    return own
                self._client.dimensions = self._wanted
                shortened = await self._probe_at_start()
            except EmbedderUnavailable as exc:
                if loop.time() > end:
                    raise StartupError(f"{exc} Check OPENAI_BASE_URL.") from exc
                log.info("waiting for the embedding provider")
                await asyncio.sleep(START_PAUSE)
            else:
                if shortened != self._wanted:
                    raise StartupError(f"EMBEDDING_DIMENSION={self._wanted}, but {self._name} makes {own}.")
                return shortened

    async def _probe_at_start(self) -> int:
        """Raises StartupError for what time will not mend."""
        try:
            length = await self._client.probe()
        except EmbedderUnavailable as exc:
            cause = exc.__cause__
            if isinstance(cause, openai.APIStatusError) and 400 <= cause.status_code < 500 and cause.status_code != 429:
                raise StartupError(
                    f"The embedding provider refuses this server with {cause.status_code}: check OPENAI_API_KEY, "
                    "OPENAI_MODEL, OPENAI_BASE_URL and EMBEDDING_DIMENSION."
                ) from exc
            raise
        except AppError as exc:
            raise StartupError(f"{exc} Check OPENAI_MODEL and EMBEDDING_DIMENSION.") from exc
        self._last_success = asyncio.get_running_loop().time()
        return length


def _joined(pairs: Sequence[tuple[str, Row]]) -> Row:
    for _, row in pairs:
        if isinstance(row, AppError):
            return row
    try:
        return merged(collected([row for _, row in pairs]), [part for part, _ in pairs])
    except TextsFailed as exc:
        return exc


def _connected(api_key: str | None, base_url: str | None, timeout: float) -> openai.AsyncOpenAI:
    """A client that repeats nothing itself. A query in the URL (Azure's ?api-version=) goes with each request, and
    the key also as the header api-key to a URL that is not OpenAI's own."""
    if api_key is None and base_url is None:
        raise StartupError("EMBEDDING_MODEL=openai needs OPENAI_API_KEY, or OPENAI_BASE_URL of a server without keys.")
    parts = urlsplit(base_url or "")
    return openai.AsyncOpenAI(
        api_key=api_key or "none",
        base_url=urlunsplit(parts._replace(query="")) if base_url else "https://api.openai.com/v1",
        default_query=dict(parse_qsl(parts.query)),
        default_headers={"api-key": api_key} if base_url and api_key else None,
        timeout=timeout,
        max_retries=0,
        # Reads answers in C: a third less work for a question, and for a hundred vectors.
        http_client=openai.DefaultAioHttpClient(),
    )
