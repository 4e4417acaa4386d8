"""Writes a bot to a file, and stores the documents of such a file in a bot."""

import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from tqdm import tqdm

from app.config import Settings
from app.core.bots.bots import NewBot
from app.core.commands import open_backup
from app.core.services import Services, open_services
from app.core.transfer.export import Exporter
from app.core.transfer.format import End, ExportedBot, Manifest
from app.core.transfer.importing import Import, ImportBatch
from app.core.write.upsert import OnConflict
from app.export_file import ExportFile, ExportWriter
from app.schemas.rows import Bot
from app.utils.errors import BotNotFound, CollectionNameTaken, ExportOvertaken, UnsupportedMode

Bar: TypeAlias = "tqdm[Any]"
PRINTED_ERRORS = 20
WORDS = ("created", "replaced", "unchanged", "skipped", "failed")


async def export(settings: Settings, bot_id: UUID, path: Path, *, vectors: bool) -> None:
    """Raises InvalidInput if the file exists, BotNotFound, ExportOvertaken, Unavailable."""
    writer = ExportWriter(path)
    async with open_backup(settings) as source:
        chunks = (await source.bots.counts(bot_id)).chunks
        with tqdm(total=chunks, desc="export", unit="chunk", disable=None) as bar:
            end = await export_bot(source.exporter, bot_id, writer, bar, vectors=vectors)
    tqdm.write(f"{end.documents:,} documents, {end.chunks:,} chunks, {end.vectors:,} vectors", file=sys.stdout)


async def export_bot(exporter: Exporter, bot_id: UUID, writer: ExportWriter, bar: Bar, *, vectors: bool) -> End:
    """Writes the whole file, or what is missing of it. ``bar`` counts chunks. Returns the last line."""
    if (kept := writer.kept()) is not None:
        manifest, written, end = kept
        if (manifest.bot.chat_bot_id, manifest.vectors) == (bot_id, vectors):
            bar.update(written.chunks)
            if end is not None:
                writer.complete()
                return end
            try:
                pieces = await exporter.resume(manifest, written)
            except ExportOvertaken:  # It cannot be continued.
                bar.update(-written.chunks)
            else:
                return await _write(pieces, writer, bar)
    writer.clear()
    return await _write(await exporter.open(bot_id, None, vectors=vectors), writer, bar)


async def _write(pieces: AsyncIterator[bytes], writer: ExportWriter, bar: Bar) -> End:
    last = b""
    async for piece in pieces:
        writer.write(piece)
        bar.update(piece.count(b'"chunk_index":'))  # About right, as texts may have it too.
        last = piece
    end = End.read(last.splitlines()[-1])
    assert end is not None, "an export that ends has a last line"
    writer.complete()
    return end


async def restore_bot(
    settings: Settings, path: Path, bot_id: UUID | None, *, on_conflict: OnConflict, vectors: bool, again: bool
) -> int:
    """Prints a summary; returns the number of documents that failed and of findings of ``verify``. Raises AppError."""
    file, manifest, end = checked(path)
    async with open_services(settings.model_copy(update={"index_check_interval_seconds": 0})) as services:
        bot = await bot_for(services, manifest.bot, bot_id)
        begun = await services.importer.begin(bot.bot_id, manifest.export_id, on_conflict)
        if again:
            await begun.forget()
        with tqdm(total=end.chunks, desc="restore", unit="chunk", disable=None) as bar:
            return await import_and_verify(services, begun, file, bot.bot_id, bar, vectors=vectors)


def checked(path: Path) -> tuple[ExportFile, Manifest, End]:
    """Reads the whole file before anything is stored. Raises InvalidInput."""
    file = ExportFile(path)
    size = path.stat().st_size if path.exists() else 0
    with tqdm(total=size, desc="check", unit="B", unit_scale=True, disable=None) as bar:
        return file, *file.check(bar.update)


async def bot_for(services: Services, exported: ExportedBot, bot_id: UUID | None) -> Bot:
    """The bot with this id, or with that of the export. Makes it, with its settings, if it does not exist."""
    wanted = bot_id or exported.chat_bot_id
    try:
        return await services.bots.get(wanted, None)
    except BotNotFound:
        pass
    new = NewBot(
        wanted,
        exported.bot_name,
        exported.collection_name,
        exported.account_name,
        title_in_lexical=exported.title_in_lexical,
        default_mode=exported.mode,
        default_dense_weight=exported.dense_weight,
        default_min_confidence=exported.min_confidence,
    )
    try:
        return await _created(services, new)
    except CollectionNameTaken:  # By the bot that was exported.
        return await _created(services, replace(new, collection_name=f"bot_{wanted.hex}"))


async def _created(services: Services, new: NewBot) -> Bot:
    try:
        return (await services.bots.create(new))[0]
    except UnsupportedMode:
        note = (
            f"note bot={new.bot_id} searches in another mode by default: this Milvus has no {new.default_mode} search"
        )
        tqdm.write(note, file=sys.stdout)
        return (await services.bots.create(replace(new, default_mode=None)))[0]


async def import_and_verify(
    services: Services, begun: Import, file: ExportFile, bot_id: UUID, bar: Bar, *, vectors: bool
) -> int:
    """As ``import_file``; prints a summary and what ``verify`` finds then.

    Returns the number of documents that failed and of findings.
    """
    counts = await import_file(begun, file, bot_id, bar, vectors=vectors)
    done = ", ".join(f"{counts[word]:,} {word}" for word in WORDS)
    earlier = f"; {begun.repeated:,} of these documents by an earlier run" if begun.repeated else ""
    tqdm.write(f"bot={bot_id} {done}; {counts['embedded']:,} chunks embedded{earlier}", file=sys.stdout)
    found = 0
    async for finding in services.verifier.check_now(bot_id):
        found += 1
        tqdm.write(f"found {finding}", file=sys.stdout)
    return counts["failed"] + found


async def import_file(begun: Import, file: ExportFile, bot_id: UUID, bar: Bar, *, vectors: bool) -> Counter[str]:
    """Stores the whole file, or what is missing of it, and prints what cannot be stored. ``bar`` counts chunks.

    Returns numbers of documents by result, and under "embedded" the number of chunks.
    """
    counts: Counter[str] = Counter()
    for batch in file.batches(bot_id, vectors=vectors):
        for number, one in enumerate(await begun.store(batch), batch.first):
            counts[one.result] += 1
            counts["embedded"] += one.embedded_chunks
            if one.error is not None and counts["failed"] <= PRINTED_ERRORS:
                tqdm.write(f"line {number}: {one.error}", file=sys.stdout)
        bar.update(_chunks(batch))
    return counts


def _chunks(batch: ImportBatch) -> int:
    return sum(len(one.chunks) for one in batch.documents if not isinstance(one, Exception))
