"""Texts to an endpoint that speaks as OpenAI's: as many at a time as it takes, and a bad one fails alone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import openai

from app.core.embedding.port import Row, Rows, concat_rows
from app.core.embedding.providers import openai_reply, provider_message
from app.core.embedding.providers.endpoint import EncodingFormat, Endpoint
from app.core.embedding.providers.learnt_limits import LearntLimits
from app.core.embedding.providers.provider_message import NamedLimits
from app.core.embedding.providers.provider_requests import TOO_MUCH, ProviderRequests
from app.core.embedding.queue.batch_queue import Lane
from app.utils.errors import AppError, EmbedderUnavailable, TextRefused, Unavailable

PROBE = "ping"
PROBE_SECONDS = 5.0
NEXT_ENCODING: dict[EncodingFormat, EncodingFormat] = {"base64": "float", "float": "none"}
"""What to ask for where a format is refused."""

log = logging.getLogger(__name__)

WhenRefused = Callable[[str, Lane, NamedLimits], Awaitable[Row]]
"""Makes a row of a text that the provider refuses by itself, or that it has cut."""
WhenLimited = Callable[[NamedLimits], None]
"""Is told of a limit that was learnt."""


class OpenAIClient:
    """``deadline`` is the seconds that one request with all its repetitions may take."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        endpoint: Endpoint,
        *,
        deadline: float,
        breaker_failures: int,
        breaker_pause: float,
        when_refused: WhenRefused,
        when_limited: WhenLimited,
    ) -> None:
        self._endpoint = endpoint
        self._when_refused = when_refused
        self._when_limited = when_limited
        self._requests = ProviderRequests(
            client, self.probe, deadline=deadline, breaker_failures=breaker_failures, breaker_pause=breaker_pause
        )
        self.breaker = self._requests.breaker
        self.dimensions: int | None = None
        """Sent with each request, if set."""
        self.expected: int | None = None
        """Length of each vector, once it is known."""
        self.cut_at: int | None = None
        """A text of so many tokens was cut by the provider without a word, where that is known."""
        self.encoding = endpoint.encoding_format
        self.limits = LearntLimits(endpoint.request_texts, known=endpoint.limits_known)
        self._told = self.limits.most
        self._trying = asyncio.Lock()

    async def rows(self, texts: list[str], lane: Lane) -> Rows:
        """A row for each text; raises nothing."""
        parts: list[Rows] = []
        done = 0
        while done < len(texts):
            left = texts[done:] if done else texts
            if self.limits.needs_trial(len(left)):
                async with self._trying:
                    part = await self._tried(left, lane)
            else:
                part = await self._sent(left[: self.limits.most], lane)
            done += len(part)
            if len(part):
                parts.append(part)
            if done < len(texts) and (away := _all_away(part)) is not None:
                parts.append([away] * (len(texts) - done))
                break
        self._tell()
        return concat_rows(parts) if parts else []

    async def probe(self) -> int:
        """Embeds one word, once, past the breaker; the length of its vector. Raises AppError."""
        length, _ = await self.ask(PROBE, Lane.DOCUMENTS, PROBE_SECONDS)
        return length

    async def ask(self, text: str, lane: Lane, seconds: float) -> tuple[int, int | None]:
        """Length of the vector of one text, asked for once, and how many tokens the provider counted. Raises AppError,
        which has the provider's as its cause."""
        try:
            async with asyncio.timeout(min(seconds, self._requests.deadline)):
                content = await self._requests.post(self._endpoint.path, self._body([text], lane))
        except (openai.OpenAIError, TimeoutError) as exc:
            raise self._requests.unavailable(exc) from exc
        row = openai_reply.rows(content, 1, self.expected)[0]
        if isinstance(row, AppError):
            raise row
        return len(row), openai_reply.prompt_tokens(content)

    def sentence(self, exc: openai.APIStatusError) -> str:
        return self._requests.sentence(exc)

    def next_encoding(self) -> bool:
        """Asks for vectors in another format from now on; false when all were tried."""
        following = NEXT_ENCODING.get(self.encoding)
        if following is None:
            return False
        log.warning("the embedding provider refuses encoding_format=%s: asking for %s", self.encoding, following)
        self.encoding = following
        return True

    async def close(self) -> None:
        await self._requests.close()

    async def _sent(self, texts: list[str], lane: Lane) -> Rows:
        """Rows of a number of texts that was taken before. What is refused now is halved until the bad text is found;
        if none is, there were too many."""
        try:
            rows = await self._taken(texts, lane)
        except AppError as exc:
            return [exc] * len(texts)
        except openai.APIStatusError as exc:
            if len(texts) == 1:
                return [await self._refused(texts[0], exc, lane)]
            if exc.status_code in TOO_MUCH and self._learnt(exc, texts):
                return await self.rows(texts, lane)
            middle = len(texts) // 2
            found = concat_rows([await self._sent(texts[:middle], lane), await self._sent(texts[middle:], lane)])
            if exc.status_code in TOO_MUCH and not any(isinstance(row, AppError) for row in found):
                self.limits.too_many(len(texts))
            return found
        self.limits.took(len(texts))
        return rows

    async def _tried(self, texts: list[str], lane: Lane) -> Rows:
        """Rows of the first texts, while it is found out how many are taken at a time. Maybe of none, when that is
        known by now."""
        parts: list[Rows] = []
        refusals: list[tuple[int, int]] = []
        done = 0
        # A refusal counts once its texts were taken in smaller numbers: a bad one among them would explain it.
        while done < len(texts) and (not self.limits.settled or any(at + many > done for at, many in refusals[-1:])):
            size = self.limits.trial(len(texts) - done)
            part = texts[done : done + size]
            if size <= self.limits.proven:
                rows = await self._sent(part, lane)
            else:
                try:
                    rows = await self._taken(part, lane)
                except AppError as exc:
                    rows = [exc] * len(part)
                except openai.APIStatusError as exc:
                    if exc.status_code not in TOO_MUCH:
                        rows = await self._sent(part, lane)
                    elif self._learnt(exc, part):
                        continue
                    else:
                        refusals.append((done, size))
                        self.limits.too_many(size)
                        continue
                else:
                    self.limits.took(size)
            bad = [done + index for index, row in enumerate(rows) if _is_bad(row)]
            if bad:
                refusals = [(at, many) for at, many in refusals if not any(at <= one < at + many for one in bad)]
                self.limits.forget_refusals([many for _, many in refusals])
            parts.append(rows)
            done += len(rows)
            if _all_away(rows) is not None:
                break
        return concat_rows(parts) if parts else []

    async def _taken(self, texts: list[str], lane: Lane) -> Rows:
        """Rows of one request. Raises EmbedderUnavailable, and APIStatusError for what may be one text's fault."""
        while True:
            encoding = self.encoding
            try:
                content = await self._requests.answer(
                    self._endpoint.path, self._body(texts, lane), several=len(texts) > 1
                )
            except openai.APIStatusError as exc:
                if not provider_message.refuses_encoding(self._requests.sentence(exc, texts)):
                    raise
                if encoding == self.encoding and not self.next_encoding():
                    raise
            else:
                rows = openai_reply.rows(content, len(texts), self.expected)
                if self.cut_at is not None and len(texts) == 1:
                    read = openai_reply.prompt_tokens(content)
                    if read is not None and read >= self.cut_at:
                        return [await self._when_refused(texts[0], lane, NamedLimits(input_tokens=self.cut_at - 1))]
                return rows

    async def _refused(self, text: str, exc: openai.APIStatusError, lane: Lane) -> Row:
        log.warning(
            "the embedding provider refuses a text of %d characters (%s)", len(text), self._requests.told(exc, [text])
        )
        if exc.status_code in TOO_MUCH:
            said = self._requests.sentence(exc, [text])
            return await self._when_refused(text, lane, provider_message.named_limits(said, 1))
        return TextRefused("The embedding provider refuses this text.")

    def _learnt(self, exc: openai.APIStatusError, texts: list[str]) -> bool:
        """Whether the refusal names how many texts a request may hold; then that holds from now on."""
        named = provider_message.named_limits(self._requests.sentence(exc, texts), len(texts))
        if named.texts is not None:
            self.limits.named(named.texts)
        elif named.request_tokens is not None:
            self._when_limited(named)
        return named.texts is not None

    def _tell(self) -> None:
        """Of a limit that has changed, unless a trial is about to change it again."""
        if self.limits.most != self._told and not self._trying.locked():
            self._told = self.limits.most
            self._when_limited(NamedLimits(texts=self._told))

    def _body(self, texts: list[str], lane: Lane) -> dict[str, object]:
        return self._endpoint.body(texts, query=lane is Lane.QUERY, encoding=self.encoding, dimensions=self.dimensions)


def _is_bad(row: Row) -> bool:
    """Whether the provider refused this very text."""
    return isinstance(row, AppError) and not isinstance(row, Unavailable) and row.status == 422


def _all_away(rows: Rows) -> AppError | None:
    """The error of all rows, where the provider is away for all."""
    last = rows[-1] if len(rows) else None
    if isinstance(last, EmbedderUnavailable) and all(isinstance(row, EmbedderUnavailable) for row in rows):
        return last
    return None
