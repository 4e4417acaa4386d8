"""Adds ``lexical_coverage`` and ``confidence`` to the results of a search, and keeps what they are computed from.

A bot's document frequencies come from a sample of its chunks. The first search that has results draws it. Later ones
have it drawn again, in the background, when the bot has grown or shrunk by half, or after a day. The sample is in
PostgreSQL, and the bot's row has its version, so that all servers use the same.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from app.core.analyzers.analyzers import analyzed_text
from app.core.bots.bot_cache import BoundedCache
from app.core.ports import StatisticsPort
from app.core.search.coalescing import RequestCoalescer
from app.core.search.confidence import SHIPPED, likelihood, never_rising
from app.core.search.coverage import DocumentFrequencies, Match, TermCounter, Terms, terms
from app.core.search.query import Query, Result
from app.schemas.operation_rows import BotSize, Calibration, TermCounts
from app.schemas.rows import Bot, SearchChunk
from app.utils.errors import AppError, BotNotFound, ErrorLocation, NotCalibrated, Unavailable
from app.utils.lru_cache import LruCache

log = logging.getLogger(__name__)

SAMPLE_CHUNKS = 512
SAMPLE_CHARS = 1_000_000
"""A sample of long chunks has fewer of them: analyzing it takes half a second of a core, in small steps."""
CHECK_SECONDS = 10.0
"""Pause between two looks at whether a searched bot's sample still fits."""
UNSTORED_SECONDS = 60.0
"""For how long a process uses a sample that it could not store."""
MAX_AGE_SECONDS = 86_400.0
GROWTH = 1.5
CACHED_BYTES = 16 * 1024 * 1024
"""Memory of each process for the terms of chunks, and as much for document frequencies."""
ENTRY_BYTES = 400
"""Memory of an entry besides its terms or frequencies: key, slots and objects around them."""
DIGITS = 4
"""Of coverage and confidence in an answer."""
SLICE = 16
"""Results that are compared with the query without letting other requests run."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """``frequencies``: None for a bot without chunks. ``expires_at``, by the loop's clock: they could not be stored, so
    that other servers may use others; None if they are stored."""

    version: UUID | None
    analyzer_version: int
    title_in_lexical: bool
    frequencies: DocumentFrequencies | None
    calibration: Calibration | None
    expires_at: float | None = None


_Key = tuple[UUID, UUID | None, str | None, int | None, int, bool]


class _NotStored(Exception):
    """PostgreSQL is full or read-only, or did not answer. Searches go on with the counts."""

    def __init__(self, counts: TermCounts) -> None:
        super().__init__()
        self.counts = counts


class Relevance:
    def __init__(self, store: StatisticsPort) -> None:
        self._store = store
        self._reader = RequestCoalescer(self._read_batch)
        self._statistics = LruCache[_Key, Statistics](CACHED_BYTES, _statistics_bytes)
        self._terms = LruCache[tuple[int, int, bool], Terms](CACHED_BYTES, _terms_bytes)
        self._checked = BoundedCache[UUID, float]()
        self._to_check: set[UUID] = set()

    async def rate(self, query: Query, bot: Bot, results: list[list[Result]]) -> list[list[Result]]:
        """The results with coverage and confidence, those below ``query.min_confidence`` left out.

        Raises NotCalibrated if ``min_confidence`` is above 0 and the bot's model has no calibration, BotNotFound and
        DatabaseUnavailable.
        """
        if not any(results) and not query.min_confidence:
            return results
        statistics = await self._of(bot, draw=any(results))
        if query.min_confidence and statistics.calibration is None:
            raise not_calibrated(bot)
        rated: list[list[Result]] = []
        for text, found in zip(query.texts, results, strict=True):
            matches = await self._matches(text, statistics, [result.chunk for result in found])
            rated.append(_rated(found, matches, statistics.calibration, query.min_confidence))
        return rated

    async def matches(self, text: str, bot: Bot, chunks: Sequence[SearchChunk]) -> list[Match]:
        """How much of a query each chunk has. Raises BotNotFound and DatabaseUnavailable."""
        return await self._matches(text, await self._of(bot, draw=True), chunks)

    async def is_calibrated(self, bot: Bot) -> bool:
        """Whether results of the bot have a confidence."""
        return (await self._of(bot, draw=False)).calibration is not None

    async def refresh_forever(self) -> None:
        """Looks after the samples of bots that this process searches."""
        while True:
            await asyncio.sleep(1.0)
            try:
                await self.refresh()
            except AppError as exc:
                log.debug("samples of chunks are not compared in this round: %s", exc.detail)
            except Exception:
                log.exception("samples of chunks were not compared")

    async def refresh(self) -> None:
        """Draws new samples of the bots that were searched since the last call, where the old ones no longer fit."""
        while self._to_check:
            bot_id = self._to_check.pop()
            sample = await self._store.claim_check(bot_id, timedelta(seconds=CHECK_SECONDS))
            if sample is None:
                continue
            size = await self._store.size(bot_id, SAMPLE_CHUNKS + 1)
            if sample.age > MAX_AGE_SECONDS or _differ(sample.size, size):
                with suppress(_NotStored):
                    await self._draw(bot_id, sample.version, sample.analyzer_version, sample.title_in_lexical, size)

    async def _of(self, bot: Bot, draw: bool) -> Statistics:
        """The bot's statistics. ``draw``: draws a sample if there is none."""
        words = (bot.analyzer_version, bot.title_in_lexical)
        key = (bot.bot_id, bot.statistics_version, bot.embedding_model, bot.dimension, *words)
        now = asyncio.get_running_loop().time()
        self._note(bot.bot_id, now)
        found = self._statistics.get(key)
        if found is None or (draw and found.frequencies is None) or now > (found.expires_at or now):
            found = await self._reader((bot, draw), None)
            is_kept = found.version is not None or found.expires_at is not None
            if is_kept and words == (found.analyzer_version, found.title_in_lexical):
                self._statistics.put((key[0], found.version, *key[2:]), found)
        return found

    def _note(self, bot_id: UUID, now: float) -> None:
        if (checked := self._checked.get(bot_id)) is None or now - checked >= CHECK_SECONDS:
            self._checked.put(bot_id, now)
            self._to_check.add(bot_id)

    async def _read_batch(self, key: tuple[Bot, bool], calls: Sequence[None]) -> Sequence[Statistics]:
        return [await self._read(*key)] * len(calls)

    async def _read(self, bot: Bot, draw: bool) -> Statistics:
        stored = await self._store.get(bot.bot_id)
        counts = expires_at = None
        if stored is not None and stored.counts is None and draw:
            size = await self._store.size(bot.bot_id, SAMPLE_CHUNKS + 1)
            words = (stored.analyzer_version, stored.title_in_lexical)
            try:
                counts = await self._draw(bot.bot_id, stored.version, *words, size)
                stored = await self._store.get(bot.bot_id)
            except _NotStored as exc:
                counts, expires_at = exc.counts, asyncio.get_running_loop().time() + UNSTORED_SECONDS
        if stored is None:
            raise BotNotFound("There is no bot with this chat_bot_id.")
        counts = stored.counts or counts
        shipped = SHIPPED.get((bot.embedding_model, bot.dimension, stored.analyzer_version))
        return Statistics(
            stored.version,
            stored.analyzer_version,
            stored.title_in_lexical,
            None if counts is None else DocumentFrequencies(counts),
            stored.calibration or shipped,
            expires_at,
        )

    async def _draw(
        self, bot_id: UUID, version: UUID | None, analyzer_version: int, title_in_lexical: bool, size: BotSize
    ) -> TermCounts:
        """Counts the terms of a sample and stores them, unless another process did meanwhile. Raises _NotStored."""
        is_whole = size.chunks <= SAMPLE_CHUNKS
        sample = await self._store.sample(bot_id, SAMPLE_CHUNKS, 0 if is_whole else size.pages)
        if not sample:
            sample = await self._store.sample(bot_id, SAMPLE_CHUNKS, 0)
        counter, chars = TermCounter(), 0
        for title, text in sample:
            counter.add(analyzed_text(title, text, title_in_lexical), analyzer_version)
            chars += len(text)
            if chars >= SAMPLE_CHARS:
                break
            await asyncio.sleep(0)
        counts = counter.result()
        try:
            await self._store.store(bot_id, version, analyzer_version, title_in_lexical, counts, size)
        except Unavailable as exc:
            raise _NotStored(counts) from exc
        return counts

    async def _matches(self, text: str, statistics: Statistics, chunks: Sequence[SearchChunk]) -> list[Match]:
        frequencies = statistics.frequencies
        if frequencies is None or not chunks:
            return [Match(0.0, 0.0)] * len(chunks)
        query = frequencies.query(text, statistics.analyzer_version)
        found = []
        for number, chunk in enumerate(chunks, start=1):
            found.append(query.match(self._chunk_terms(chunk, statistics)))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return found

    def _chunk_terms(self, chunk: SearchChunk, statistics: Statistics) -> Terms:
        """A chunk's text never changes under its key."""
        key = (chunk.chunk_id, statistics.analyzer_version, statistics.title_in_lexical)
        found = self._terms.get(key)
        if found is None:
            text = analyzed_text(chunk.title, chunk.text, statistics.title_in_lexical)
            found = terms(text, statistics.analyzer_version)
            self._terms.put(key, found)
        return found


def not_calibrated(bot: Bot) -> NotCalibrated:
    """For a ``min_confidence`` of a bot whose model has no calibration."""
    detail = (
        f"min_confidence needs a calibration of the bot's model, {bot.embedding_model}: an operator makes one with "
        f"python -m app.cli calibrate {bot.bot_id} --questions FILE"
    )
    return NotCalibrated(detail, locations=[ErrorLocation("body.min_confidence", detail)])


def _rated(
    results: Sequence[Result], matches: Sequence[Match], calibration: Calibration | None, least: float | None
) -> list[Result]:
    coverages = [round(match.coverage, DIGITS) for match in matches]
    if calibration is None:
        return [replace(result, lexical_coverage=coverage) for result, coverage in zip(results, coverages, strict=True)]
    confidences = never_rising(
        [
            round(likelihood(calibration, match, result.dense_score), DIGITS)
            for result, match in zip(results, matches, strict=True)
        ]
    )
    return [
        replace(result, lexical_coverage=coverage, confidence=confidence)
        for result, coverage, confidence in zip(results, coverages, confidences, strict=True)
        if least is None or confidence >= least
    ]


def _statistics_bytes(statistics: Statistics) -> int:
    return ENTRY_BYTES + (0 if statistics.frequencies is None else statistics.frequencies.nbytes)


def _terms_bytes(of_chunk: Terms) -> int:
    return ENTRY_BYTES + sys.getsizeof(of_chunk)


def _differ(one: BotSize, other: BotSize) -> bool:
    """Whether a bot has grown or shrunk by half. A small one is counted, a large one by its pages, which only grow."""
    if min(one.chunks, other.chunks) <= SAMPLE_CHUNKS:
        few, many = sorted((one.chunks, other.chunks))
        return many >= GROWTH * few and many > few
    return other.pages >= GROWTH * one.pages
