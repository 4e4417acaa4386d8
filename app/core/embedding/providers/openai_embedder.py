"""OpenAI's embeddings, or those of any server that speaks as OpenAI's does: vLLM, TEI, Ollama, Azure."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openai

from app.core.embedding.long_text import LongText, halves, merged, split, too_long
from app.core.embedding.port import PartialEmbeddingError, Row, Rows, Vectors, stack_or_raise
from app.core.embedding.providers import tokens
from app.core.embedding.providers.endpoint import DIMENSIONS, Endpoint
from app.core.embedding.providers.openai_client import PROBE, PROBE_SECONDS, OpenAIClient
from app.core.embedding.providers.provider_message import NamedLimits, named_limits
from app.core.embedding.providers.provider_requests import TOO_MUCH, connected
from app.core.embedding.queue.batch_queue import BatchLimits, Lane
from app.core.embedding.queue.dispatcher import Dispatcher
from app.utils.errors import AppError, EmbedderUnavailable, StartupError, TextRefused

QUEUE_TEXTS = 32_768
FRESH_SECONDS = 30.0
"""A ping trusts a success as old as this and costs nothing."""
START_PAUSE = 0.5
LONG_PROBE_WORDS = 8_192
"""A chunk has no more characters than that (TEXT_CHARS), so hardly more tokens."""
LONG_PROBE_WORD = "a "
"""A token everywhere, and short: TEI refuses more than 250 characters for each token that its model reads."""
LONG_PROBE_SECONDS = 10.0
CUT_SHARE = 0.97
"""A provider that counts so much of the long probe has read it: some tokenizers merge words."""
LEAST_CUT = 16
"""A smaller count of tokens is no limit of a model; some servers count nothing and say 0 or 1."""
SPECIAL_TOKENS = 4
PASSAGE_NAMES = ("-passage", "-document")
CANNOT_TELL = (
    "it cannot be told whether the embedding provider cuts long texts, so EMBEDDING_LONG_TEXT does not hold for those: "
    "set OPENAI_TOKENIZER and OPENAI_MAX_INPUT_TOKENS, or keep chunks short"
)
CHECK = {
    401: "OPENAI_API_KEY and OPENAI_BASE_URL",
    403: "OPENAI_API_KEY and OPENAI_MODEL",
    404: "OPENAI_MODEL and OPENAI_BASE_URL",
    0: "OPENAI_MODEL, OPENAI_BASE_URL, EMBEDDING_DIMENSION and the fields that are sent (docs/EMBEDDINGS.md)",
}
"""What to look at, by status."""

log = logging.getLogger(__name__)


class OpenAIEmbedder:
    """``dimension`` 0 until the first ``ping`` has returned, where the model's own is not known.

    ``wanted_dimension`` is asked for where it is not the model's own. ``timeout`` bounds a call, its time in the
    queue and all repetitions included.
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
        batch_wait: float = 0.0,
        queue_texts: int | None = None,
        long_text: LongText = "error",
        breaker_failures: int = 5,
        breaker_pause: float = 5.0,
    ) -> None:
        if api_key is None and endpoint.base_url is None:
            raise StartupError(
                "EMBEDDING_MODEL=openai needs OPENAI_API_KEY, or OPENAI_BASE_URL of a server without keys."
            )
        self.model = endpoint.identity
        self.dimension = 0
        self.call_texts = endpoint.request_texts
        self._endpoint = endpoint
        self._wanted = wanted_dimension
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._input_tokens = endpoint.input_tokens
        self._split = long_text == "split"
        self._exact = tokens.file_counter(tokenizer) if tokenizer else tokens.exact_counter(endpoint.model)
        self._count = self._exact or tokens.utf8_bytes
        self._prefix_tokens = {
            lane: self._count(prefix) if (prefix := endpoint.prefix(query=lane is Lane.QUERY)) else 0 for lane in Lane
        }
        self._last_success = -FRESH_SECONDS
        self._client = OpenAIClient(
            connected(api_key, endpoint.base_url, timeout),
            endpoint,
            deadline=timeout,
            breaker_failures=breaker_failures,
            breaker_pause=breaker_pause,
            when_refused=self._refused,
            when_limited=self._limited,
        )
        self._queue = Dispatcher(
            self._client.rows,
            limits=BatchLimits(
                endpoint.request_texts,
                endpoint.request_tokens,
                wait=batch_wait,
                alike=False,
                queue=queue_texts or QUEUE_TEXTS,
            ),
            max_concurrency=max_concurrency,
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
        return stack_or_raise(await self._rows(texts, lane))

    async def _rows(self, texts: Sequence[str], lane: Lane) -> Rows:
        self._client.breaker.check()
        weights = await self._weigh(texts, lane)
        if max(weights) <= self._input_tokens:
            return await self._sent(texts, weights, lane)
        rows: list[Row | None] = [None] * len(texts)
        parts: list[tuple[int, str, int]] = []
        for index, (text, weight) in enumerate(zip(texts, weights, strict=True)):
            if weight <= self._input_tokens:
                parts.append((index, text, weight))
            elif self._exact is None:
                # What may be too long, but is not known to be, is for the provider to judge. One that cuts tells by
                # its count of tokens, if the text is alone in its request.
                alone = self._client.cut_at is not None
                parts.append((index, text, self._endpoint.request_tokens if alone else self._input_tokens))
            elif self._split:
                parts += [(index, part, self._tokens(part, lane)) for part in split(text, self._fitting(lane))]
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

    async def _weigh(self, texts: Sequence[str], lane: Lane) -> list[int]:
        """Tokens of each text with its prefix, or as many as it may have."""
        more = self._prefix_tokens[lane] + (SPECIAL_TOKENS if self._client.cut_at is not None else 0)
        if self._exact is None:
            return [tokens.utf8_bytes(text) + more for text in texts]
        return await asyncio.to_thread(lambda: [self._count(text) + more for text in texts])

    def _tokens(self, text: str, lane: Lane) -> int:
        return self._count(text) + self._prefix_tokens[lane]

    def _fitting(self, lane: Lane) -> Callable[[str], bool]:
        return lambda text: self._tokens(text, lane) <= self._input_tokens

    def _limited(self, limits: NamedLimits) -> None:
        """What the provider takes in a request, as it turned out."""
        log.info(
            "the embedding provider takes at most %s %s a request: set %s to spare each start the finding out",
            limits.texts or limits.request_tokens,
            "texts" if limits.texts else "tokens",
            f"EMBEDDING_BATCH_SIZE={limits.texts}" if limits.texts else "OPENAI_MAX_REQUEST_TOKENS",
        )
        self._queue.limit(texts=limits.texts, weight=limits.request_tokens)

    async def _refused(self, text: str, lane: Lane, named: NamedLimits) -> Row:
        """A text that the provider refuses by itself, or cuts: too long, if it may be; then it is split, if that is
        set."""
        if named.input_tokens is not None:
            self._input_tokens = min(self._input_tokens, named.input_tokens)
        elif self._fitting(lane)(text):
            return TextRefused("The embedding provider refuses this text.")
        if not self._split or len(text) < 2:
            return too_long(self._input_tokens)
        parts = halves(text)
        # Each in a request of its own: only so is one noticed that is cut.
        rows = [row for part in parts for row in await self._client.rows([part], lane)]
        return _joined(list(zip(parts, rows, strict=True)))

    async def _start(self) -> None:
        """Finds out the dimension, and how long texts fare. A model that is known may be away; of others the provider
        must say it."""
        known = DIMENSIONS.get(self._endpoint.model)
        name = self._endpoint.model
        if known is not None:
            if self._wanted is not None and self._wanted != known:
                if self._wanted > known or name == "text-embedding-ada-002":
                    raise StartupError(f"EMBEDDING_DIMENSION={self._wanted}, but {name} makes {known}.")
                self._client.dimensions = self._wanted
            self.dimension = self._client.expected = self._wanted or known
            try:
                await self._probe_at_start(Lane.DOCUMENTS)
            except EmbedderUnavailable as exc:
                log.warning("starting without the embedding provider: %s", exc)
            return
        end = asyncio.get_running_loop().time() + self._start_timeout
        dimension = await self._discover(end)
        if self._endpoint.asks_queries_otherwise:
            queries = await self._wait_for_probe(Lane.QUERY, end)
            if queries != dimension:
                raise StartupError(
                    f"{self._endpoint.query_model or name} makes {queries} dimensions of a query and {name} "
                    f"{dimension} of a document: check OPENAI_QUERY_MODEL and OPENAI_MODEL."
                )
        elif name.endswith(PASSAGE_NAMES):
            log.warning("%s embeds queries too: set OPENAI_QUERY_MODEL if there is a model for them", name)
        self.dimension = self._client.expected = dimension
        if self._exact is None and not self._endpoint.refuses_long:
            await self._look_whether_it_cuts()

    async def _discover(self, end: float) -> int:
        own = await self._wait_for_probe(Lane.DOCUMENTS, end)
        if self._wanted in (None, own):
            return own
        self._client.dimensions = self._wanted
        shortened = await self._wait_for_probe(Lane.DOCUMENTS, end)
        if shortened != self._wanted:
            raise StartupError(f"EMBEDDING_DIMENSION={self._wanted}, but {self._endpoint.model} makes {own}.")
        return shortened

    async def _wait_for_probe(self, lane: Lane, end: float) -> int:
        """As ``_probe_at_start``, again and again until the time ``end`` while the provider is away or busy."""
        while True:
            try:
                return await self._probe_at_start(lane)
            except EmbedderUnavailable as exc:
                if asyncio.get_running_loop().time() > end:
                    raise StartupError(f"{exc} Check OPENAI_BASE_URL.") from exc
                log.info("waiting for the embedding provider")
                await asyncio.sleep(START_PAUSE)

    async def _probe_at_start(self, lane: Lane) -> int:
        """Raises StartupError, with the provider's own sentence, for what time will not mend."""
        first = self._client.encoding
        while True:
            try:
                length, _ = await self._client.ask(PROBE, lane, PROBE_SECONDS)
            except EmbedderUnavailable as exc:
                cause = exc.__cause__
                if not isinstance(cause, openai.APIStatusError):
                    raise
                status = cause.status_code
                # Some servers fail at a format that they do not know, and do not say so.
                if status in (400, 415, 422, 500) and self._client.next_encoding():
                    continue
                self._client.encoding = first
                if not 400 <= status < 500 or status == 429:
                    raise
                said = self._client.sentence(cause)
                raise StartupError(
                    f"The embedding provider refuses this server with {status}"
                    + (f" and says: {said!r}. " if said else ". ")
                    + f"Check {CHECK.get(status, CHECK[0])}."
                ) from exc
            except AppError as exc:
                raise StartupError(f"{exc} Check OPENAI_MODEL and EMBEDDING_DIMENSION.") from exc
            self._last_success = asyncio.get_running_loop().time()
            return length

    async def _look_whether_it_cuts(self) -> None:
        """Sends one text that is longer than the model should read, and compares the tokens that were counted."""
        words = min(self._input_tokens, LONG_PROBE_WORDS) + SPECIAL_TOKENS
        try:
            _, read = await self._client.ask(LONG_PROBE_WORD * words, Lane.DOCUMENTS, LONG_PROBE_SECONDS)
        except AppError as exc:
            cause = exc.__cause__
            if isinstance(cause, openai.APIStatusError) and cause.status_code in TOO_MUCH:
                said = self._client.sentence(cause)
                named = named_limits(said, 1)
                if named.input_tokens is None and "character" in said.lower():
                    log.warning("%s (it refused for its characters: %s)", CANNOT_TELL, said)
                    return
                self._input_tokens = min(self._input_tokens, named.input_tokens or self._input_tokens)
                return  # It refuses.
            log.warning("%s (%s)", CANNOT_TELL, exc)
            return
        if read is None or read < LEAST_CUT:
            log.warning("%s (it counts no tokens)", CANNOT_TELL)
        elif read < CUT_SHARE * words:
            log.warning(
                "the embedding provider cuts texts at %d tokens and does not say so: texts that may be longer are sent "
                "one by one, and its count of tokens tells those that it cut. OPENAI_TOKENIZER counts beforehand",
                read,
            )
            self._client.cut_at = read
            self._input_tokens = min(self._input_tokens, read - 1)


def _joined(pairs: Sequence[tuple[str, Row]]) -> Row:
    for _, row in pairs:
        if isinstance(row, AppError):
            return row
    try:
        return merged(stack_or_raise([row for _, row in pairs]), [part for part, _ in pairs])
    except PartialEmbeddingError as exc:
        return exc
