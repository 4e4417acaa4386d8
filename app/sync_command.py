"""``python -m app.cli sync``: makes a bot's documents equal to those of a file."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from msgspec import convert
from pydantic import ValidationError
from tqdm import tqdm

from app.config import Settings
from app.core.services import Services, open_services
from app.core.transfer.sync import LEASE
from app.core.write.upsert import Entry
from app.core.write.write import WriteResult
from app.models.data import DocumentWithChunks
from app.models.inserts import Item
from app.schemas.rows import NewDocument
from app.utils.errors import AppError, InvalidInput, SyncInProgress, Unavailable
from app.utils.stopwatch import Stopwatch

BATCH_DOCUMENTS, BATCH_CHUNKS = 100, 2_000
PRINTED_ERRORS = 20
NumberedDocument = tuple[int, NewDocument]
"""The number of its line, from 1, and the document."""


class DocumentFile:
    """NDJSON: each line is a document as in a batch insert. It needs an ``external_id`` and no ``chat_bot_id``."""

    def __init__(self, path: Path, bot_id: UUID) -> None:
        self._path = path
        self._bot_id = bot_id

    def check(self) -> int:
        """Reads the whole file; returns the number of documents. Raises InvalidInput, which names lines."""
        lines: dict[str, int] = {}
        errors: list[str] = []
        for number, document in self._read():
            if isinstance(document, str):
                errors.append(f"line {number}: {document}")
            elif (first := lines.setdefault(document.external_id or "", number)) != number:
                errors.append(f"line {number}: has the external_id of line {first}")
        if errors:
            more = [f"and {len(errors) - PRINTED_ERRORS:,} more"] if len(errors) > PRINTED_ERRORS else []
            raise InvalidInput("\n".join([*errors[:PRINTED_ERRORS], *more, "Nothing was done."]))
        return len(lines)

    def batches(self) -> Iterator[list[NumberedDocument]]:
        """All documents, a few at a time. The file has been checked."""
        batch: list[NumberedDocument] = []
        chunks = 0
        for number, document in self._read():
            if isinstance(document, str):
                raise InvalidInput(f"line {number}: {document}. The file has changed since it was checked.")
            if batch and (len(batch) == BATCH_DOCUMENTS or chunks + len(document.chunks) > BATCH_CHUNKS):
                yield batch
                batch, chunks = [], 0
            batch.append((number, document))
            chunks += len(document.chunks)
        if batch:
            yield batch

    def _read(self) -> Iterator[tuple[int, NewDocument | str]]:
        """The number of each line that is not blank, and its document or what is wrong with it."""
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, self._document(line)
        except OSError as exc:
            raise InvalidInput(f"{self._path} cannot be read: {exc.strerror}.") from exc

    def _document(self, line: bytes) -> NewDocument | str:
        try:
            content: Any = orjson.loads(line)
            if isinstance(content, dict) and isinstance(content.get("document"), dict):
                content["document"].setdefault("chat_bot_id", str(self._bot_id))
            item = convert(DocumentWithChunks.model_validate(content).model_dump(), Item)
        except orjson.JSONDecodeError as exc:
            return f"is not JSON in UTF-8: {exc}"
        except ValidationError as exc:
            error = exc.errors()[0]
            return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
        if item.document.chat_bot_id != self._bot_id:
            return "document.chat_bot_id: is another bot"
        if item.document.external_id is None:
            return "document.external_id: is missing"
        return item.new_document()


async def sync(settings: Settings, path: Path, bot_id: UUID, *, delete_missing: bool, dry_run: bool) -> int:
    """Makes the bot equal to the file, or with ``dry_run`` says what would be done.

    Prints the documents that could not be stored and a summary. Returns the number of the former. Raises AppError.
    """
    source = DocumentFile(path, bot_id)
    total = source.check()
    counts: Counter[str] = Counter()
    async with open_services(settings.model_copy(update={"index_check_interval_seconds": 0})) as services:
        session_id = await _started(services, bot_id)
        with tqdm(total=total, desc="sync", unit="document", disable=None) as bar:
            for batch in source.batches():
                documents = [document for _, document in batch]
                results = await _results(services, bot_id, session_id, documents, dry_run)
                for (line, _), result in zip(batch, results, strict=True):
                    counts["failed" if isinstance(result, AppError) else result] += 1
                    if isinstance(result, AppError):
                        tqdm.write(f"line {line}: {result}", file=sys.stdout)
                bar.update(len(batch))
        if dry_run:
            if delete_missing:
                counts["deleted"] = await services.sync.missing(bot_id, None, session_id)
            await services.sync.cancel(bot_id, None, session_id)
        else:
            done = await services.sync.finish(bot_id, None, session_id, delete_missing=delete_missing)
            counts["deleted"] = done.documents
    words = ("created", "replaced", "unchanged", "deleted", "failed")
    summary = ", ".join(f"{counts[word]:,} {word}" for word in words)
    tqdm.write(f"would be: {summary}" if dry_run else summary, file=sys.stdout)
    return counts["failed"]


async def _started(services: Services, bot_id: UUID) -> UUID:
    """Waits for the lease of a session that another process has, or had when it was killed."""
    deadline = asyncio.get_running_loop().time() + LEASE.total_seconds() + 5
    while True:
        try:
            return await services.sync.start(bot_id, None)
        except SyncInProgress:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(1)


async def _results(
    services: Services, bot_id: UUID, session_id: UUID, documents: Sequence[NewDocument], dry_run: bool
) -> list[WriteResult | AppError]:
    entries: list[Entry] = [(bot_id, document) for document in documents]
    if dry_run:
        return await services.sync.plan(bot_id, None, session_id, entries)
    try:
        outcomes = await services.sync.batch(bot_id, None, session_id, entries, Stopwatch())
    except Unavailable:
        raise
    except InvalidInput as exc:  # The same error of all of them.
        return [exc] * len(documents)
    return [outcome.error or outcome.result for outcome in outcomes]
