"""Bulk loads by parts: streams of lines whose results are stored together with what the lines wrote.

A part is one request body. Its lines are written in batches while it arrives. Each batch is one write of both stores,
whose T2 also moves the part on: to the batch's last line, and to the SHA-256 of all lines up to there. A request that
sends a part again skips these lines, and must have the same ones. So after any break a part is sent again from its
first line, and no line takes effect twice. Two requests with the same part do no harm: T1 and T2 compare the last line,
so that one of them goes on and the other one is refused.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

import orjson

from app.core.bots.bots import Bots
from app.core.ports import StreamPort
from app.core.transfer.lines import Digest, LineSplitter
from app.core.write.recorded import LinesRequest
from app.core.write.write import Outcome
from app.schemas.stream_rows import (
    LineResults,
    LinesKey,
    PartName,
    PartState,
    ResultPlace,
    StoredResults,
    StreamTotals,
)
from app.utils.errors import AppError, MalformedBody, PartDiffers, PartInProgress, StreamNotFound
from app.utils.failpoints import failpoint
from app.utils.tasks import cancel_quietly

BATCH_DOCUMENTS = 500
BATCH_CHUNKS = 1_000
BATCH_BYTES = 4 << 20
BATCH_LINES = 10_000
"""A batch is written when it has one of these. Lines are also counted where they are blank."""

PAGE_ROWS = 4
"""Batches whose results are read at once, for a page of results."""

T = TypeVar("T")
LineResult = tuple[ResultPlace, dict[str, Any]]
"""The place of a line, and its result as JSON: ``line``, ``success``, and what ``LineHandler.render`` made besides."""


class LineHandler(Protocol[T]):
    """What the lines of a part are. A ``line`` of None is too long."""

    def see(self, line: bytes | None, before: Digest) -> None:
        """Called for each line in order, also if it is stored already. ``before``: the hash of the lines before it.

        Raises AppError if the part cannot be loaded.
        """

    def read(self, number: int, line: bytes | None) -> T | AppError | None:
        """The line's content, or why it cannot be read: MalformedBody if it is not JSON. None: it has no result."""

    def chunks(self, content: T) -> int: ...

    def external_id(self, content: T) -> str | None:
        """A batch has at most one document with an external_id, so that each line finds what the lines before wrote."""

    async def write(self, contents: Sequence[T | AppError], request: LinesRequest) -> LineResults:
        """Writes a batch and its results, both or nothing, as ``Ingest.insert_lines``."""

    def render(self, numbers: Sequence[int], outcomes: Sequence[Outcome]) -> LineResults:
        """The results of the lines with these numbers."""


@dataclass
class PartProgress:
    """``lines``: those whose results are stored, ``repeated`` of them since an earlier request. ``stored`` and
    ``failed`` count results of the whole part."""

    lines: int = 0
    repeated: int = 0
    stored: int = 0
    failed: int = 0

    @property
    def members(self) -> dict[str, int]:
        return {"lines": self.lines, "repeated": self.repeated, "stored": self.stored, "failed": self.failed}


@dataclass
class _Batch(Generic[T]):
    """``after``: the last line before it. ``numbers`` and ``contents``: those of its lines that are not blank."""

    after: int
    last_line: int = 0
    sha256: bytes = b""
    numbers: list[int] = field(default_factory=list)
    contents: list[T | AppError] = field(default_factory=list)
    external_ids: set[str] = field(default_factory=set)
    chunks: int = 0
    size: int = 0

    @property
    def full(self) -> bool:
        return (
            len(self.numbers) >= BATCH_DOCUMENTS
            or self.chunks >= BATCH_CHUNKS
            or self.size >= BATCH_BYTES
            or self.last_line - self.after >= BATCH_LINES
        )


class PartLoad(Generic[T]):
    """One request that sends a part. ``progress`` is up to date also when ``run`` has raised."""

    def __init__(
        self,
        name: PartName,
        state: PartState | None,
        body: AsyncIterator[bytes],
        handler: LineHandler[T],
        max_line: int,
    ) -> None:
        self._name = name
        self._body = body
        self._handler = handler
        self._splitter = LineSplitter(max_line)
        self._stored_lines, self._stored_sha256 = (state.lines, state.sha256) if state else (0, b"")
        self.progress = PartProgress()
        if state:
            self.progress = PartProgress(state.lines, state.lines, state.stored, state.failed)

    async def run(self) -> AsyncGenerator[LineResults]:
        """Reads the body to its end; yields the results of new lines as soon as they are stored.

        An empty piece of the body means that nothing more came for a while: what was read is then written. Raises what
        the body and ``LineHandler.write`` raise, with ``progress`` in the error and the lines before that stored;
        PartDiffers, and MalformedBody if the last line is cut off.
        """
        writing: asyncio.Task[LineResults] | None = None
        try:
            async with aclosing(self._batches()) as batches:
                try:
                    async for batch in batches:
                        if writing:
                            yield await writing
                        writing = asyncio.create_task(self._write(batch))
                except Exception:
                    if writing and not writing.done():
                        await writing
                    raise
            if writing:
                yield await writing
        except AppError as exc:
            exc.more = {**exc.more, "progress": self.progress.members}
            raise
        finally:
            if writing:
                cancel_quietly(writing)

    async def _write(self, batch: _Batch[T]) -> LineResults:
        key = LinesKey(self._name, batch.after, batch.last_line, batch.sha256)
        request = LinesRequest(key, lambda outcomes: self._handler.render(batch.numbers, outcomes))
        results = await self._handler.write(batch.contents, request)
        self.progress.lines = batch.last_line
        self.progress.stored += results.stored
        self.progress.failed += results.failed
        await failpoint("stream.after_lines")
        return results

    async def _batches(self) -> AsyncGenerator[_Batch[T]]:
        """Batches of the lines that are not stored. An error of the body is raised after the lines before it."""
        batch = _Batch[T](self.progress.lines)
        error: Exception | None = None
        pieces = aiter(self._body)
        while error is None:
            try:
                piece = await anext(pieces, None)
            except Exception as exc:
                error = exc
                break
            ended = piece is None
            for line in self._splitter.rest() if piece is None else self._splitter.feed(piece):
                self._handler.see(line, self._splitter.before)
                if self._is_stored():
                    continue
                number, content = self._splitter.number, self._read(line)
                if ended and isinstance(content, MalformedBody):
                    error = MalformedBody(f"Line {number} is cut off: the body ends in it.")
                    break
                if not self._fits(batch, content):
                    yield batch
                    batch = _Batch(batch.last_line)
                self._add(batch, line, content)
                if batch.full:
                    yield batch
                    batch = _Batch(batch.last_line)
            if ended:
                break
            if not piece and batch.last_line:
                yield batch
                batch = _Batch(batch.last_line)
        if batch.last_line:
            yield batch
        if error:
            raise error
        if self._splitter.number < self._stored_lines:
            raise PartDiffers(
                f"This part has {self._splitter.number} lines, and {self._stored_lines} are stored of it."
            )

    def _is_stored(self) -> bool:
        """Whether the line is stored. Raises PartDiffers when the stored lines are others."""
        number = self._splitter.number
        if number == self._stored_lines and self._splitter.sha256.digest() != self._stored_sha256:
            raise PartDiffers(f"The first {number} lines of this part differ from those that are stored.")
        return number <= self._stored_lines

    def _read(self, line: bytes | None) -> T | AppError | None:
        """None for a blank line."""
        return self._handler.read(self._splitter.number, line) if line is None or line.strip() else None

    def _fits(self, batch: _Batch[T], content: T | AppError | None) -> bool:
        if content is None or isinstance(content, AppError):
            return True
        return self._handler.external_id(content) not in batch.external_ids

    def _add(self, batch: _Batch[T], line: bytes | None, content: T | AppError | None) -> None:
        batch.last_line, batch.sha256 = self._splitter.number, self._splitter.sha256.digest()
        batch.size += len(line or b"")
        if content is None:
            return
        batch.numbers.append(self._splitter.number)
        batch.contents.append(content)
        if not isinstance(content, AppError):
            batch.chunks += self._handler.chunks(content)
            if external_id := self._handler.external_id(content):
                batch.external_ids.add(external_id)


class Streams:
    """All methods raise BotNotFound; those that read a stream StreamNotFound."""

    def __init__(self, bots: Bots, store: StreamPort) -> None:
        self._bots = bots
        self._store = store

    async def load(
        self, name: PartName, account: str | None, body: AsyncIterator[bytes], handler: LineHandler[T], max_line: int
    ) -> PartLoad[T]:
        """A request that sends this part. ``max_line``: bytes of the longest line.

        Raises the errors of ``Bots.usable``, and PartInProgress.
        """
        await self._bots.usable(name.bot_id, account)
        state = await self._store.part(name)
        if state and state.in_flight:
            raise PartInProgress
        return PartLoad(name, state, body, handler, max_line)

    async def parts(
        self, bot_id: UUID, account: str | None, stream_key: str, after: int, limit: int
    ) -> tuple[StreamTotals, Sequence[PartState], int | None]:
        """Sums over the whole stream, and a page of its parts in order, and its cursor."""
        totals = await self._totals(bot_id, account, stream_key)
        parts = await self._store.parts(bot_id, stream_key, after, limit)
        return totals, parts, parts[-1].part if len(parts) == limit else None

    async def results(
        self, bot_id: UUID, account: str | None, stream_key: str, after: ResultPlace, limit: int, *, failed: bool
    ) -> tuple[list[LineResult], ResultPlace | None]:
        """A page of results of lines, in order, and its cursor. ``failed``: only of lines that failed."""
        await self._totals(bot_id, account, stream_key)
        page: list[LineResult] = []
        place: ResultPlace | None = after
        while place is not None and len(page) <= limit:
            rows = await self._store.results(bot_id, stream_key, place, PAGE_ROWS, failed=failed)
            page += (one for row in rows for one in _line_results(row) if one[0] > after and _wanted(one, failed))
            place = rows[-1].place if len(rows) == PAGE_ROWS else None
        return page[:limit], page[limit - 1][0] if len(page) > limit else None

    async def _totals(self, bot_id: UUID, account: str | None, stream_key: str) -> StreamTotals:
        await self._bots.get(bot_id, account)
        totals = await self._store.totals(bot_id, stream_key)
        if not totals.parts:
            raise StreamNotFound(f"This bot has no stream {stream_key}.")
        return totals


def _line_results(row: StoredResults) -> Iterator[LineResult]:
    for line in row.results.splitlines():
        result = orjson.loads(line)
        yield ResultPlace(row.place.part, result["line"]), result


def _wanted(one: LineResult, failed: bool) -> bool:
    return not (failed and one[1]["success"])
