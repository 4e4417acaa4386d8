"""Stores the documents of an export in a bot.

Vectors of the bot's own model are taken, after a sample of each batch was compared with what the model makes now; all
other texts are embedded. The record of a batch that was stored is written in its T2: that of a file as the record of an
Idempotency-Key, that of a request as a part (``app.core.transfer.streams``). So an import that was stopped can be run
again: it stores exactly what is missing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from msgspec.structs import replace as replace_fields

from app.core.bots.bots import Bots
from app.core.embedding.port import Embedder, PartialEmbeddingError, Vectors
from app.core.embedding.registry import EmbedderRegistry
from app.core.embedding.tolerance import cosine, tolerance
from app.core.ports import IdempotencyPort
from app.core.write.carrying import is_usable
from app.core.write.idempotency import IdempotentRequest
from app.core.write.ingest import Ingest
from app.core.write.recorded import REPEATABLE, LinesRequest
from app.core.write.upsert import Entry, OnConflict
from app.core.write.write import Outcome
from app.schemas.rows import IMPORT_KEYS, IdempotencyKey, NewDocument
from app.schemas.stream_rows import LineResults
from app.utils.errors import AppError, RequestInFlight, Unavailable, VectorsDiffer
from app.utils.stopwatch import Stopwatch

SAMPLE_SHARE, SAMPLE_LEAST = 500, 2
"""Of the vectors of a batch, one in SAMPLE_SHARE is compared, but at least SAMPLE_LEAST."""
PAUSE_SECONDS: Final = 0.5
MAX_FAILURES: Final = 10
"""How often in a run documents of one batch are tried that fail because something is unavailable."""


class Imported(NamedTuple):
    """What became of one document: a ``WriteResult``, or "failed" with its error."""

    result: str
    error: str | None = None
    embedded_chunks: int = 0
    retry: bool = False


@dataclass(frozen=True, slots=True)
class ImportBatch:
    """Documents of consecutive lines. ``first``: number of the first line. ``sha256``: of the lines. An error stands
    for a document that is not valid."""

    first: int
    documents: Sequence[NewDocument | AppError]
    sha256: bytes


class Importer:
    """``patience``: seconds to wait for a batch that a process was storing when it was killed."""

    def __init__(
        self,
        bots: Bots,
        ingest: Ingest,
        embedders: EmbedderRegistry,
        records: IdempotencyPort,
        *,
        patience: float,
        random: Random | None = None,
    ) -> None:
        self._bots = bots
        self._ingest = ingest
        self._embedders = embedders
        self._records = records
        self._patience = patience
        self._random = random or Random()  # noqa: S311 # for a sample

    async def store(
        self,
        bot_id: UUID,
        account: str | None,
        documents: Sequence[NewDocument | AppError],
        timings: Stopwatch,
        request: IdempotentRequest | None = None,
        on_conflict: OnConflict = "error",
    ) -> list[Outcome]:
        """Stores a batch, as ``Ingest.insert_each``. Documents without an external_id are new documents.

        Raises BotNotFound, ModelMismatch, Unavailable, and VectorsDiffer, with nothing stored, when a vector that came
        with the documents is not that of its text.
        """
        entries = await self._entries(bot_id, account, documents)
        return await self._ingest.insert_each(account, entries, timings, request, on_conflict, unnamed=True)

    async def store_lines(
        self,
        account: str | None,
        documents: Sequence[NewDocument | AppError],
        request: LinesRequest,
        on_conflict: OnConflict = "error",
    ) -> LineResults:
        """Stores lines of a part with their results, as ``Ingest.insert_lines``, and otherwise as ``store``."""
        entries = await self._entries(request.key.name.bot_id, account, documents)
        return await self._ingest.insert_lines(account, entries, Stopwatch(), request, on_conflict, unnamed=True)

    async def _entries(
        self, bot_id: UUID, account: str | None, documents: Sequence[NewDocument | AppError]
    ) -> list[Entry]:
        """The documents with those of their vectors that the bot can take. Raises as ``store``."""
        bot = await self._bots.usable(bot_id, account)
        embedder = self._embedders.of(bot)
        entries: list[Entry] = [
            one if isinstance(one, AppError) else (bot_id, _usable(one, embedder)) for one in documents
        ]
        await self._check_sample(embedder, [one[1] for one in entries if isinstance(one, tuple)])
        return entries

    async def begin(self, bot_id: UUID, source: UUID, on_conflict: OnConflict) -> "Import":
        """An import into this bot that can be continued. ``source``: the export_id. Raises BotNotFound."""
        bot = await self._bots.get(bot_id, None)
        # Another bot under the same bot_id is another import.
        prefix = f"{IMPORT_KEYS}{bot_id} {bot.created_at.timestamp():.6f} {source} "
        return Import(self, self._records, bot_id, prefix, on_conflict, self._patience)

    async def _check_sample(self, embedder: Embedder, documents: Sequence[NewDocument]) -> None:
        texts, given = [], list[Vectors]()
        for document in documents:
            if document.vectors:
                texts += [chunk.text for chunk in document.chunks if chunk.chunk_index in document.vectors.by_index]
                given += [
                    document.vectors.by_index[chunk.chunk_index]
                    for chunk in document.chunks
                    if chunk.chunk_index in document.vectors.by_index
                ]
        count = min(len(texts), max(SAMPLE_LEAST, len(texts) // SAMPLE_SHARE))
        chosen = self._random.sample(range(len(texts)), count)
        if not chosen:
            return
        failed: set[int] = set()
        try:
            made = await embedder.embed_documents([texts[position] for position in chosen])
        except PartialEmbeddingError as exc:  # Texts that this model does not take any more.
            made, failed = exc.vectors, set(exc.errors)
        for number, position in enumerate(chosen):
            if number not in failed and not 1 - cosine(made[number], given[position]) <= tolerance(embedder.model):
                raise VectorsDiffer(
                    f"A vector of the import is not the one that {embedder.model} makes of its text. Nothing of this "
                    "batch was stored. Import without vectors, so that all texts are embedded."
                )


class _Done(NamedTuple):
    """What one attempt did. ``recorded``: its results are in the database, which it was if something was stored.
    ``replayed``: by an earlier run."""

    results: Sequence[Imported]
    recorded: bool
    replayed: bool


class Import:
    """An import into one bot, by ``Importer.begin``. A batch is stored once, however often it is given."""

    def __init__(
        self,
        importer: Importer,
        records: IdempotencyPort,
        bot_id: UUID,
        prefix: str,
        on_conflict: OnConflict,
        patience: float,
    ) -> None:
        self._importer = importer
        self._records = records
        self._bot_id = bot_id
        self._prefix = prefix
        self._on_conflict = on_conflict
        self._patience = patience
        self.repeated = 0
        """Documents of batches that were stored by an earlier run."""

    async def was_begun(self, batch: ImportBatch) -> bool:
        """Whether this batch was stored by an earlier run."""
        return await self._records.find_answer(IdempotencyKey("", self._key(batch, 0), batch.sha256)) is not None

    async def store(self, batch: ImportBatch) -> list[Imported]:
        """What became of each document, now or when the batch was stored first. Raises as ``Importer.store``.

        Documents that failed because something was unavailable are tried again, for some seconds; then raises
        Unavailable. An attempt that stored nothing has no record and is repeated as it was, now or by the next run:
        otherwise the two runs would store the same documents in different attempts.
        """
        results = [Imported("failed", retry=True)] * len(batch.documents)
        left, part, attempt, failures = list(range(len(results))), batch, 0, 0
        while True:
            done = await self._store_once(part, attempt)
            for number, result in zip(left, done.results, strict=True):
                results[number] = result
            if not any(result.retry for result in done.results):
                return results
            if done.recorded:
                left = [number for number in left if results[number].retry]
                digest = sha256(part.sha256 + orjson.dumps(left)).digest()
                part = replace(batch, documents=[batch.documents[number] for number in left], sha256=digest)
                attempt += 1
            if done.replayed:
                continue
            failures += 1
            if failures == MAX_FAILURES:
                raise Unavailable(f"Documents could not be stored: {next(one.error for one in results if one.retry)}")
            await asyncio.sleep(PAUSE_SECONDS)

    async def forget(self) -> None:
        """Forgets what was stored: the same export can then be imported once more."""
        await self._records.forget("", self._prefix)

    async def _store_once(self, batch: ImportBatch, attempt: int) -> "_Done":
        request = IdempotentRequest(self._key(batch, attempt), batch.sha256, _record)
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                outcomes = await self._importer.store(
                    self._bot_id, None, batch.documents, Stopwatch(), request, self._on_conflict
                )
                break
            except RequestInFlight:  # Of a process that was killed; recovery undoes it after its lease.
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(PAUSE_SECONDS)
        if request.answer is None:
            return _Done([_imported(one) for one in outcomes], recorded=False, replayed=False)
        self.repeated += len(batch.documents) if request.replayed else 0
        results = [Imported(*values) for values in orjson.loads(request.answer)]
        return _Done(results, recorded=True, replayed=request.replayed)

    def _key(self, batch: ImportBatch, attempt: int) -> str:
        return f"{self._prefix}{batch.first}.{attempt}"


def _imported(outcome: Outcome) -> Imported:
    if outcome.error is None:
        return Imported(outcome.result, None, outcome.embedded_chunks)
    return Imported("failed", outcome.error.detail, 0, isinstance(outcome.error, REPEATABLE))


def _record(outcomes: Sequence[Outcome]) -> bytes:
    return orjson.dumps([tuple(_imported(one)) for one in outcomes])


def _usable(document: NewDocument, embedder: Embedder) -> NewDocument:
    """The document with only those vectors that the bot can take."""
    given = document.vectors
    if given is None:
        return document
    if (given.model, given.dimension) != (embedder.model, embedder.dimension):
        return replace_fields(document, vectors=None)
    usable = {index: vector for index, vector in given.by_index.items() if is_usable(vector, given.dimension)}
    return replace_fields(document, vectors=given._replace(by_index=usable))
