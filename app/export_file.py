"""Exports as files: NDJSON, compressed if the name ends with ``.gz``.

A file is written as ``NAME.part`` and gets its name when it is complete. A part can be continued. In a compressed file
each piece is a member of its own, so that a part can be cut after any of them.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import UUID

import orjson

from app.core.transfer.export import Written
from app.core.transfer.format import End, Manifest, WholeCheck, compressed
from app.core.transfer.importing import ImportBatch
from app.models.transfer import read_document
from app.schemas.rows import NewDocument
from app.utils.errors import AppError, InvalidInput, MalformedBody

BATCH_DOCUMENTS, BATCH_CHUNKS = 200, 2_000
"""Of one batch of an import. The records of what was stored depend on them: an import that another version of this
program has begun cannot be continued if they differ."""
READ_BYTES = 1 << 20
Progress = Callable[[int], object]


def nothing(_count: int) -> None: ...


class Checked(NamedTuple):
    manifest: Manifest
    end: End


@dataclass(slots=True)
class _Kept:
    """What is left of a part that was cut off. ``size``: bytes of the file up to there."""

    manifest: Manifest | None
    written: Written
    size: int = 0
    end: End | None = None


class ExportFile:
    """An export that is complete. All methods raise InvalidInput if it is not, or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self) -> Manifest:
        return Manifest.read(next(self._lines(nothing), b""))

    def check(self, progress: Progress = nothing) -> Checked:
        """Reads the whole file and compares its counts and its hash. ``progress``: of bytes on the disk."""
        whole, hashed = WholeCheck(), sha256()
        for line in self._lines(progress):
            whole.see(line, hashed)
            hashed.update(line)
        if whole.torn or whole.manifest is None or whole.end is None:
            raise InvalidInput(f"{self.path} {whole.torn}.")
        return Checked(whole.manifest, whole.end)

    def batches(self, bot_id: UUID, *, vectors: bool) -> Iterator[ImportBatch]:
        """The documents, to be stored in this bot, a few at a time."""
        lines = self._lines(nothing)
        model = Manifest.read(next(lines, b"")).bot.model
        batch, chunks, first = list[NewDocument | AppError](), 0, 2
        hashed = sha256()
        for number, line in enumerate(lines, 2):
            if End.read(line):
                break
            document = _document(line, bot_id, model if vectors else None)
            count = 0 if isinstance(document, AppError) else len(document.chunks)
            if batch and (len(batch) == BATCH_DOCUMENTS or chunks + count > BATCH_CHUNKS):
                yield ImportBatch(first, batch, hashed.digest())
                batch, chunks, first, hashed = [], 0, number, sha256()
            batch.append(document)
            chunks += count
            hashed.update(line)
        if batch:
            yield ImportBatch(first, batch, hashed.digest())

    def _lines(self, progress: Progress) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as raw:
                # Recognised by its content: the file may have been renamed.
                compressed = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                file: IO[bytes] = gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore[assignment]
                at = 0
                for line in file:
                    yield line
                    if raw.tell() > at:
                        progress(raw.tell() - at)
                        at = raw.tell()
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise InvalidInput(f"{self.path} was cut off or is damaged: {exc}.") from exc
        except OSError as exc:
            raise InvalidInput(f"{self.path} cannot be read: {exc.strerror}.") from exc


def _document(line: bytes, bot_id: UUID, model: tuple[str, int] | None) -> NewDocument | AppError:
    try:
        return read_document(line, bot_id, model)
    except (InvalidInput, MalformedBody) as exc:
        return exc


class ExportWriter:
    """Writes a file that replaces none. Raises InvalidInput if it exists already or cannot be written."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise InvalidInput(f"{path} exists already.")
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._compressed = path.suffix == ".gz"

    def kept(self) -> tuple[Manifest, Written, End | None] | None:
        """What an earlier run has written, with its last line if it is complete; the file continues there.

        None: it begins.
        """
        kept = _kept(self._part, self._compressed)
        if kept is None or kept.manifest is None:
            self.clear()
            return None
        os.truncate(self._part, kept.size)
        return kept.manifest, kept.written, kept.end

    def clear(self) -> None:
        self._part.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        """Appends."""
        data = compressed(piece) if self._compressed else piece
        try:
            with open(self._part, "ab", opener=private) as file:  # Path.open has no opener.
                file.write(data)
        except OSError as exc:
            raise InvalidInput(f"{self._part} cannot be written: {exc.strerror}.") from exc

    def complete(self) -> None:
        publish(self._part, self.path)


def private(path: str, flags: int) -> int:
    """An opener of files that only their owner can read."""
    return os.open(path, flags, 0o600)


def publish(part: Path, path: Path) -> None:
    """Gives a file its name, so that a power failure leaves it whole or absent."""
    for name, flags in ((part, os.O_RDWR), (None, 0), (path.parent, os.O_RDONLY)):
        if name is None:
            part.replace(path)
            continue
        descriptor = os.open(name, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _kept(part: Path, compressed: bool) -> _Kept | None:
    """The whole lines of a part; None if there is no part, or it is damaged."""
    kept, pending = _Kept(None, Written()), list[bytes]()
    try:
        with part.open("rb") as file:
            for size, data in _members(file) if compressed else _plain(file):
                pending.append(data)
                if not data.endswith(b"\n"):
                    continue
                for line in b"".join(pending).splitlines(keepends=True):
                    _keep(kept, line)
                kept.size, pending = size, []
    except (OSError, InvalidInput, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return kept


def _keep(kept: _Kept, line: bytes) -> None:
    """Counts a line. Raises InvalidInput, JSONDecodeError, KeyError and TypeError for one that is damaged."""
    written = kept.written
    if kept.manifest is None:
        kept.manifest = Manifest.read(line)
    elif end := End.read(line):
        if end.sha256 != written.hash.hexdigest():
            raise InvalidInput("The last line has another hash.")
        kept.end = end
        return
    else:
        document: dict[str, Any] = orjson.loads(line)
        chunks = document["chunks"]
        written.last_doc_id = document["doc_id"]
        written.documents += 1
        written.chunks += len(chunks)
        written.vectors += sum(chunk.get("vector") is not None for chunk in chunks)
    written.hash.update(line)


def _plain(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(position after it, content) of each line, and of what follows the last one."""
    size = 0
    for line in file:
        size += len(line)
        yield size, line


def _members(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(position after it, content) of each complete member of a compressed file."""
    size, parts, member = 0, list[bytes](), zlib.decompressobj(zlib.MAX_WBITS | 16)
    while data := file.read(READ_BYTES):
        size += len(data)
        while data:
            try:
                parts.append(member.decompress(data))
            except zlib.error:
                return
            data = member.unused_data
            if member.eof:
                yield size - len(data), b"".join(parts)
                parts, member = [], zlib.decompressobj(zlib.MAX_WBITS | 16)
