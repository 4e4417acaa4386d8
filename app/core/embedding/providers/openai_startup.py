"""What is found out about an endpoint at start: the dimension, the encoding, and whether it truncates long texts."""

import asyncio
import logging

import openai

from app.core.embedding.providers.endpoint import DIMENSIONS, Endpoint
from app.core.embedding.providers.openai_client import PROBE, PROBE_SECONDS, OpenAIClient
from app.core.embedding.providers.provider_errors import stated_limits
from app.core.embedding.providers.provider_requests import BAD_INPUT
from app.core.embedding.queue.batch_queue import Lane
from app.utils.errors import AppError, EmbedderUnavailable, StartupError

PAUSE_SECONDS = 0.5
"""Between two probes while the provider is unavailable."""
SPECIAL_TOKENS = 4
"""More than a model adds to a text."""
LONG_TEXT_WORDS = 8_192
"""Upper bound for the probe: a chunk has at most 8,192 characters, so hardly more tokens."""
LONG_TEXT_WORD = "a "
"""One token in every tokenizer, and short: TEI refuses more than 250 characters per token that its model reads."""
LONG_TEXT_SECONDS = 10.0
READ_SHARE = 0.97
"""A provider that counts this share of the probe's words has read it all: some tokenizers merge words."""
MIN_TRUNCATION = 16
"""A smaller count is not a model's limit: some servers count no tokens and report 0 or 1."""
DOCUMENT_MODEL_SUFFIXES = ("-passage", "-document")
NOT_DETECTABLE = (
    "the server cannot find out whether the embedding provider truncates long texts; if it does, EMBEDDING_LONG_TEXT "
    "has no effect on them: set OPENAI_TOKENIZER and OPENAI_MAX_INPUT_TOKENS, or keep chunks short"
)
CHECK = {
    401: "OPENAI_API_KEY and OPENAI_BASE_URL",
    403: "OPENAI_API_KEY and OPENAI_MODEL",
    404: "OPENAI_MODEL and OPENAI_BASE_URL",
    0: "OPENAI_MODEL, OPENAI_BASE_URL, EMBEDDING_DIMENSION and the fields that are sent (docs/EMBEDDINGS.md)",
}
"""The settings to check, by the provider's status code; 0 for all other codes."""

log = logging.getLogger(__name__)


class OpenAIStartup:
    """Probes the endpoint and sets what it finds on the client: dimensions, encoding, ``truncated_at``.

    ``counts_tokens``: the server counts tokens itself, so long texts are never sent.
    """

    def __init__(
        self,
        client: OpenAIClient,
        endpoint: Endpoint,
        *,
        wanted_dimension: int | None,
        timeout: float,
        counts_tokens: bool,
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._wanted = wanted_dimension
        self._timeout = timeout
        self._counts_tokens = counts_tokens
        self.input_tokens = endpoint.input_tokens
        """How many tokens of a text the provider reads, as far as ``run`` has found out."""

    async def run(self) -> int:
        """The dimension. A model of OpenAI's is known, so the provider may be unavailable; of others it must answer.

        Raises StartupError.
        """
        model = self._endpoint.model
        if (known := DIMENSIONS.get(model)) is not None:
            return await self._start_known(model, known)
        deadline = asyncio.get_running_loop().time() + self._timeout
        dimension = await self._find_dimension(deadline)
        if self._endpoint.queries_differ:
            query_dimension = await self._probe_until(Lane.QUERY, deadline)
            if query_dimension != dimension:
                raise StartupError(
                    f"{self._endpoint.query_model or model} makes {query_dimension} dimensions of a query and {model} "
                    f"{dimension} of a document: check OPENAI_QUERY_MODEL and OPENAI_MODEL."
                )
        elif model.endswith(DOCUMENT_MODEL_SUFFIXES):
            log.warning("%s embeds queries too: set OPENAI_QUERY_MODEL if there is a model for them", model)
        self._client.dimension = dimension
        if not self._counts_tokens and not self._endpoint.refuses_long:
            await self._detect_truncation()
        return dimension

    async def _start_known(self, model: str, known: int) -> int:
        if self._wanted is not None and self._wanted != known:
            if self._wanted > known or model == "text-embedding-ada-002":
                raise StartupError(f"EMBEDDING_DIMENSION={self._wanted}, but {model} makes {known}.")
            self._client.requested_dimension = self._wanted
        self._client.dimension = self._wanted or known
        try:
            await self._probe(Lane.DOCUMENTS)
        except EmbedderUnavailable as exc:
            log.warning("starting without the embedding provider: %s", exc)
        return self._client.dimension

    async def _find_dimension(self, deadline: float) -> int:
        own = await self._probe_until(Lane.DOCUMENTS, deadline)
        if self._wanted in (None, own):
            return own
        self._client.requested_dimension = self._wanted
        shortened = await self._probe_until(Lane.DOCUMENTS, deadline)
        if shortened != self._wanted:
            raise StartupError(f"EMBEDDING_DIMENSION={self._wanted}, but {self._endpoint.model} makes {own}.")
        return shortened

    async def _probe_until(self, lane: Lane, deadline: float) -> int:
        """``_probe``, repeated until ``deadline`` while the provider is unavailable or overloaded."""
        while True:
            try:
                return await self._probe(lane)
            except EmbedderUnavailable as exc:
                if asyncio.get_running_loop().time() > deadline:
                    raise StartupError(f"{exc} Check OPENAI_BASE_URL.") from exc
                log.info("waiting for the embedding provider")
                await asyncio.sleep(PAUSE_SECONDS)

    async def _probe(self, lane: Lane) -> int:
        """The length of one vector. Tries the other encodings if one is refused.

        Raises EmbedderUnavailable, and StartupError, with the provider's message, for what waiting does not solve.
        """
        first = self._client.encoding
        while True:
            try:
                length, _ = await self._client.embed_once(PROBE, lane, PROBE_SECONDS)
            except EmbedderUnavailable as exc:
                cause = exc.__cause__
                if not isinstance(cause, openai.APIStatusError):
                    raise
                status = cause.status_code
                # Some servers fail at an encoding that they do not know without naming it.
                if status in (400, 415, 422, 500) and self._client.use_next_encoding():
                    continue
                self._client.encoding = first
                if not 400 <= status < 500 or status == 429:
                    raise
                message = self._client.error_message(cause)
                raise StartupError(
                    f"The embedding provider refuses this server with {status}"
                    + (f" and says: {message!r}. " if message else ". ")
                    + f"Check {CHECK.get(status, CHECK[0])}."
                ) from exc
            except AppError as exc:
                raise StartupError(f"{exc} Check OPENAI_MODEL and EMBEDDING_DIMENSION.") from exc
            return length

    async def _detect_truncation(self) -> None:
        """Sends a text that is longer than the model reads, and looks at the error or the number of tokens read."""
        words = min(self.input_tokens, LONG_TEXT_WORDS) + SPECIAL_TOKENS
        try:
            _, read = await self._client.embed_once(LONG_TEXT_WORD * words, Lane.DOCUMENTS, LONG_TEXT_SECONDS)
        except AppError as exc:
            cause = exc.__cause__
            if not isinstance(cause, openai.APIStatusError) or cause.status_code not in BAD_INPUT:
                log.warning("%s (%s)", NOT_DETECTABLE, exc)
                return
            message = self._client.error_message(cause)
            stated = stated_limits(message, 1)
            if stated.input_tokens is None and "character" in message.lower():
                log.warning("%s (it refused the probe for its characters: %s)", NOT_DETECTABLE, message)
                return
            # It refuses long texts, so it does not truncate.
            self.input_tokens = min(self.input_tokens, stated.input_tokens or self.input_tokens)
            return
        if read is None or read < MIN_TRUNCATION:
            log.warning("%s (it counts no tokens)", NOT_DETECTABLE)
        elif read < READ_SHARE * words:
            log.warning(
                "the embedding provider silently truncates texts at %d tokens: texts that may be longer are sent one "
                "by one, because its token count shows which of them it truncated. With OPENAI_TOKENIZER the server "
                "counts tokens itself",
                read,
            )
            self._client.truncated_at = read
            self.input_tokens = min(self.input_tokens, read - 1)
