"""A backup: a folder with an export of each bot, the API keys, and a manifest with the hash of each file.

The manifest is written last. A folder without it is a backup that was stopped: what is complete in it stays. Each bot's
file is of its own time.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
import orjson
from msgspec import Struct
from tqdm import tqdm

from app.config import Settings
from app.core.commands import BackupSource, open_backup, open_keys
from app.core.services import Services, open_services
from app.export_command import Bar, bot_for, export_bot, import_and_verify
from app.export_file import ExportFile, ExportWriter, private, publish
from app.schemas.operation_rows import ApiKeyRow
from app.utils.errors import AppError, BotNotFound, ExportOvertaken, InvalidInput

FORMAT: Final = "chat-memory-backup"
VERSION: Final = 1
MANIFEST, KEYS, BOTS = "manifest.json", "keys.json", "bots"
ATTEMPTS: Final = 3
"""How often a bot is exported that is moved to another model meanwhile."""


class BackupFile(Struct, frozen=True):
    """``name``: relative to the folder. ``sha256``: of the file, in hexadecimal. ``documents``, ``chunks``: if it is a
    bot's."""

    name: str
    size: int
    sha256: str
    bot_id: UUID | None = None
    documents: int = 0
    chunks: int = 0


class BackupManifest(Struct, frozen=True):
    format: str
    version: int
    completed_at: datetime
    files: list[BackupFile]


async def backup(settings: Settings, folder: Path, *, vectors: bool, check: bool) -> int:
    """Returns the number of files that ``check`` finds damaged. Raises InvalidInput if the folder has a backup."""
    if (folder / MANIFEST).exists():
        if check:
            return check_backup(folder)
        raise InvalidInput(f"{folder} has a complete backup. Name another folder, or read it back with --check.")
    (folder / BOTS).mkdir(parents=True, exist_ok=True, mode=0o700)
    async with open_backup(settings) as source:
        bots = await source.bots.list(None)
        chunks = sum([(await source.bots.counts(bot.bot_id)).chunks for bot in bots])
        with tqdm(total=chunks, desc="backup", unit="chunk", disable=None) as bar:
            exported = [await _backup_bot(source, bot.bot_id, folder, bar, vectors=vectors) for bot in bots]
        rows = [asdict(row) | {"sha256": row.sha256.hex()} for row in await source.keys.all()]
    _write(folder / KEYS, orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    files = [*(one for one in exported if one is not None), _described(folder, KEYS)]
    manifest = BackupManifest(FORMAT, VERSION, datetime.now(UTC), files)
    _write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    documents = sum(file.documents for file in files)
    tqdm.write(f"{len(files) - 1:,} bots, {documents:,} documents, {len(rows):,} API keys", file=sys.stdout)
    return check_backup(folder) if check else 0


async def _backup_bot(
    source: BackupSource, bot_id: UUID, folder: Path, bar: Bar, *, vectors: bool
) -> BackupFile | None:
    """None if the bot was deleted meanwhile."""
    name = f"{BOTS}/{bot_id}.ndjson.gz"
    if (folder / name).exists():  # Of a run that was stopped later.
        end = ExportFile(folder / name).check().end
        bar.update(end.chunks)
        return _described(folder, name, bot_id, end.documents, end.chunks)
    for _ in range(ATTEMPTS):
        writer = ExportWriter(folder / name)
        try:
            end = await export_bot(source.exporter, bot_id, writer, bar, vectors=vectors)
            return _described(folder, name, bot_id, end.documents, end.chunks)
        except BotNotFound:
            writer.clear()
            return None
        except ExportOvertaken:  # Deleted, which the next attempt finds, or moved.
            writer.clear()
    raise ExportOvertaken(f"Bot {bot_id} was moved to another model during each of {ATTEMPTS} exports.")


def check_backup(folder: Path) -> int:
    """Reads everything back, prints what is wrong, and returns how many files that are. Raises InvalidInput."""
    manifest = _manifest(folder)
    wrong = 0
    with tqdm(
        total=sum(one.size for one in manifest.files), desc="check", unit="B", unit_scale=True, disable=None
    ) as bar:
        for one in manifest.files:
            try:
                _check(folder, one)
            except (InvalidInput, OSError) as exc:
                wrong += 1
                tqdm.write(f"{one.name}: {exc}", file=sys.stdout)
            bar.update(one.size)
    tqdm.write(f"{wrong} files are damaged" if wrong else f"{len(manifest.files)} files are whole", file=sys.stdout)
    return wrong


def _check(folder: Path, one: BackupFile) -> None:
    if _sha256(folder / one.name) != one.sha256:
        raise InvalidInput("its hash is not the one in the manifest")
    if one.bot_id is None:
        return
    manifest, end = ExportFile(folder / one.name).check()
    if (manifest.bot.chat_bot_id, end.documents, end.chunks) != (one.bot_id, one.documents, one.chunks):
        raise InvalidInput("it is not the export that the manifest names")


async def restore(settings: Settings, folder: Path, *, vectors: bool) -> int:
    """Makes bots and keys again; returns how many bots, documents or findings of ``verify`` were wrong.

    Reads everything first. A bot that has documents which are not of an earlier run of this restore is left as it is.
    A key that exists stays as it is. Raises AppError.
    """
    if check_backup(folder):
        raise InvalidInput("Nothing was restored.")
    files = [one for one in _manifest(folder).files if one.bot_id is not None]
    wrong = 0
    async with open_services(settings.model_copy(update={"index_check_interval_seconds": 0})) as services:
        with tqdm(total=sum(one.chunks for one in files), desc="restore", unit="chunk", disable=None) as bar:
            for one in files:
                try:
                    wrong += await _restore_bot(services, ExportFile(folder / one.name), bar, vectors=vectors)
                except AppError as exc:
                    if not isinstance(exc, InvalidInput):
                        raise
                    wrong += 1
                    tqdm.write(f"bot={one.bot_id} was not restored: {exc.detail}", file=sys.stdout)
    async with open_keys(settings) as admin:
        keys = _keys(folder)
        stored = sum([await admin.restore(row) for row in keys])
    tqdm.write(f"{len(files):,} bots, {stored:,} of {len(keys):,} API keys were missing and stored", file=sys.stdout)
    return wrong


async def _restore_bot(services: Services, file: ExportFile, bar: Bar, *, vectors: bool) -> int:
    manifest = file.manifest()
    bot = await bot_for(services, manifest.bot, None)
    begun = await services.importer.begin(bot.bot_id, manifest.export_id, "error")
    if (await services.bots.counts(bot.bot_id)).documents:
        first = next(file.batches(bot.bot_id, vectors=vectors), None)
        if first is None or not await begun.was_begun(first):
            raise InvalidInput("It has documents already. Use restore-bot to add those of the backup.")
    return await import_and_verify(services, begun, file, bot.bot_id, bar, vectors=vectors)


def _manifest(folder: Path) -> BackupManifest:
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=BackupManifest)
    except OSError as exc:
        detail = f"{folder} has no complete backup: {MANIFEST} cannot be read ({exc.strerror})."
        raise InvalidInput(detail) from exc
    except msgspec.MsgspecError as exc:
        raise InvalidInput(f"{folder / MANIFEST} is not the manifest of a backup: {exc}.") from exc
    if (manifest.format, manifest.version) != (FORMAT, VERSION):
        raise InvalidInput(f"{folder / MANIFEST} is of another format or version.")
    return manifest


def _keys(folder: Path) -> Sequence[ApiKeyRow]:
    found = orjson.loads((folder / KEYS).read_bytes())
    rows = [row | {"sha256": bytes.fromhex(row["sha256"])} for row in found]
    return [msgspec.convert(row, ApiKeyRow, strict=True) for row in rows]


def _described(folder: Path, name: str, bot_id: UUID | None = None, documents: int = 0, chunks: int = 0) -> BackupFile:
    path = folder / name
    return BackupFile(name, path.stat().st_size, _sha256(path), bot_id, documents, chunks)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with open(part, "wb", opener=private) as file:
        file.write(content)
    publish(part, path)
