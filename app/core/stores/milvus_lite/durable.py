"""Milvus Lite's collection with durable writes: it loses no acknowledged row when a write fails, as on a full disk.

Milvus Lite 3.2.2 itself loses rows. A failed flush hides the rows that it should have written, and the next flush
deletes them. A failed write to the log leaves half a record, and records behind it are lost when the log is read again.

This class keeps two invariants, so that neither a failure nor a kill loses an acknowledged row:

- Memory shows every acknowledged row. A failed flush is rolled back.
- The files hold every acknowledged row: in a segment, or in a log before any half record. After a failed write or flush
  the collection accepts no writes until a flush has written all of memory to files and started a new log.

The file ``verified`` in the collection's folder says that the invariants held all the time. The first failure deletes
it, which needs no disk space. It is created again when the server has compared the collection with PostgreSQL. A
collection that is opened without this file is not searched until that comparison.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from milvus_lite.engine.collection import Collection
from milvus_lite.index.spec import IndexSpec
from milvus_lite.storage import data_file, delta_file
from milvus_lite.storage.manifest import Manifest
from milvus_lite.storage.segment import Segment

log = logging.getLogger("lite_server")

VERIFIED = "verified"
"""Name of the file; see above."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
SPARE_BYTES = 1 << 20
"""A flush is tried only if this much space would be left free after it."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between attempts to flush after a failure: doubled each time, up to the second number."""


def _write_table(table: pa.Table, path: str) -> None:
    """pyarrow's ``write_table``, but atomic: a repeated flush may write a file again that a search has open."""
    partial = f"{path}.tmp"  # If a kill leaves this file, Milvus Lite's recovery removes it.
    try:
        # A dictionary of vectors holds each number again; without it a flush takes a fifth of the time.
        pq.write_table(table, partial, use_dictionary=False)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


data_file.pq = delta_file.pq = SimpleNamespace(write_table=_write_table, read_table=pq.read_table)


class WritesRefused(Exception):
    """The collection accepts no writes because an earlier one failed."""


class DurableCollection(Collection):
    """Milvus Lite's Collection. The caller makes sure that writes and flushes of a collection run one at a time.

    ``failure``: the error because of which no writes are accepted, or None. ``failures``: number of failed writes and
    flushes. ``verified``: no failure since the collection was last compared with PostgreSQL. ``searchable``: searches
    see every acknowledged row.
    """

    _memtable: Any
    _wal: Any
    _recovered_wal_bytes: int

    def __init__(self, name: str, data_dir: str, *args: Any, **kwargs: Any) -> None:
        self.failure: BaseException | None = None
        self.failures = 0
        self._verified_file = Path(data_dir) / VERIFIED
        self.searchable = self._verified_file.exists()
        self.verified = self.searchable and not any(map(_is_torn, Path(data_dir, "wal").glob("*.arrow")))
        self._next_attempt = 0.0
        self._pause = FIRST_PAUSE
        self._opening = True
        super().__init__(name, data_dir, *args, **kwargs)
        self._opening = False

    @property
    def is_full(self) -> bool:
        """Whether the collection accepts no writes because the disk is full."""
        return has_no_space(self.failure)

    def mark_verified(self, failures: int | None = None) -> None:
        """Marks the collection as complete. Does nothing if a failure has followed the first ``failures`` ones.

        Raises OSError if the file cannot be created.
        """
        if failures not in (None, self.failures):
            return
        self.searchable = True
        if self.failure is None:
            self._verified_file.touch()
            self.verified = True

    def resume_writes(self) -> None:
        """After a failure: flushes all of memory, if there is space and the pause is over, and accepts writes again."""
        if self.failure is None or self._free_bytes() < self._memtable.estimated_memory_bytes + SPARE_BYTES:
            return
        now = time.monotonic()
        if now < self._next_attempt:
            return
        self._next_attempt, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE)
        before = self.live_keys()
        try:
            self._trigger_flush()
        except Exception:
            return
        self.failure, self._pause = None, FIRST_PAUSE
        if self.live_keys() != before:
            self.searchable = False
        log.warning("collection %s accepts writes again", self._name)

    def live_keys(self) -> set[int]:
        """Primary keys of the rows that a search sees."""
        raise NotImplementedError

    def discard(self) -> None:
        """Closes the collection without a flush, because its files are about to be deleted."""
        self._bg_closed = True
        self._bg_executor.shutdown(wait=True)
        for sink in (self._wal._data_sink, self._wal._delta_sink):
            if sink is not None:
                sink.raw.close()  # The sink's own close() would flush its buffer.

    def create_index(self, field_name: str, index_params: dict[str, Any]) -> None:
        """Milvus Lite's, but an index whose description could not be written is not listed as existing."""
        try:
            super().create_index(field_name, index_params)
        except OSError:
            self._index_specs.pop(field_name, None)
            self._manifest.remove_index_spec(field_name)
            raise

    def _apply(self, op: Any) -> None:
        if self.failure is not None:
            raise WritesRefused(f"collection {self._name} accepts no writes")
        try:
            super()._apply(op)
        except BaseException as exc:
            self._fail(exc)
            raise

    def _trigger_flush(self) -> None:
        memtable, wal, recovered = self._memtable, self._wal, self._recovered_wal_bytes
        try:
            super()._trigger_flush()
        except Exception as exc:
            self._memtable = memtable  # If files hold its rows already, searches still return each row once.
            if not self._is_committed(wal.number + 1):
                self._wal, self._recovered_wal_bytes = wal, recovered
            self._fail(exc)
            if not self._opening:
                raise

    def _is_committed(self, wal_number: int) -> bool:
        """Whether the flush that started this log has written the manifest. Loads the manifest from its file."""
        with self._maintenance_lock, suppress(Exception):
            self._manifest = Manifest.load(self._data_dir)
        return bool(self._manifest.active_wal_number == wal_number)

    def _fail(self, exc: BaseException) -> None:
        self.failures += 1
        self.failure = exc
        self.verified = False
        with suppress(FileNotFoundError):
            self._verified_file.unlink()
        what = "no space left on the disk of" if has_no_space(exc) else "cannot write to"
        log.error("%s %s (%s): collection %s accepts no writes", what, self._data_dir, exc, self._name)

    def _free_bytes(self) -> int:
        found = os.statvfs(self._data_dir)
        return found.f_bavail * found.f_frsize

    def _build_or_load_segment_index(self, seg: Segment, spec: IndexSpec) -> None:
        """Deletes a broken index file, left by a kill or a full disk. Without an index the search is exhaustive."""
        inherited: Callable[[Segment, IndexSpec], None] = super()._build_or_load_segment_index
        for _ in range(2):
            try:
                inherited(seg, spec)
                return
            except (OSError, RuntimeError) as exc:
                path = Path(seg.index_file_path(self._index_dir(seg.partition), spec.index_type, spec.field_name))
                path.unlink(missing_ok=True)
                log.warning("deleted the broken index %s of collection %s: %s", path.name, self._name, exc)


def has_no_space(exc: BaseException | None) -> bool:
    return isinstance(exc, OSError) and exc.errno in NO_SPACE


def _is_torn(path: Path) -> bool:
    """Whether a log file ends in half a record."""
    try:
        with pa.OSFile(str(path)) as source:
            if source.size() == 0:
                return False
            reader = pa.ipc.MessageReader.open_stream(source)
            while True:
                reader.read_next_message()
    except StopIteration:
        return False
    except (pa.ArrowInvalid, OSError):
        return True
