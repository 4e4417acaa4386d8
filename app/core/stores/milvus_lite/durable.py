"""Milvus Lite's collection made safe against writes that fail, as they do on a full disk.

As it comes (3.2.2), a flush that fails hides the rows that it should have written, and the next one drops them for
good. A log write that fails leaves half a record, and what is logged behind that is lost when the log is read again.

Here two things hold at every moment, so that neither a failure nor a kill loses what was acknowledged:

- Memory shows every acknowledged row. A flush that fails is taken back.
- The files hold every acknowledged row: in a segment, or in a log before any half record. After a failed write or flush
  no write is accepted until a flush has carried all of memory into files and a new log was begun.

The file ``trusted`` says that this was so all the time. It goes at the first failure, which needs no space, and comes
back when the server has compared the collection with PostgreSQL. A process that opens a collection without it does not
search it before that.
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

TRUSTED = "trusted"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
SPARE_BYTES = 1 << 20
"""Free space, beside the size of what is to be written, below which no flush is tried."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 15.0
"""Seconds between attempts to write again."""


def _write_table(table: pa.Table, path: str) -> None:
    """As pyarrow's, but the file appears whole or not at all: a flush may write one again that is in use."""
    partial = f"{path}.tmp"  # Removed by Milvus Lite's recovery, if a kill leaves it.
    try:
        pq.write_table(table, partial)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


data_file.pq = delta_file.pq = SimpleNamespace(write_table=_write_table, read_table=pq.read_table)


class WritesRefused(Exception):
    """Since an earlier write failed."""


class DurableCollection(Collection):
    """Keeps to Collection. Writes and flushes of one collection come one at a time.

    ``failure``: why no write is taken. ``failures``: how many there were. ``compared``: nothing has happened since the
    collection was last compared with PostgreSQL. ``searchable``: it shows all that was acknowledged.
    """

    _memtable: Any
    _wal: Any
    _recovered_wal_bytes: int

    def __init__(self, name: str, data_dir: str, *args: Any, **kwargs: Any) -> None:
        self.failure: BaseException | None = None
        self.failures = 0
        self._trusted_file = Path(data_dir) / TRUSTED
        self.searchable = self._trusted_file.exists()
        self.compared = self.searchable and not any(map(_is_torn, Path(data_dir, "wal").glob("*.arrow")))
        self._next_attempt = 0.0
        self._wait = FIRST_WAIT
        self._opening = True
        super().__init__(name, data_dir, *args, **kwargs)
        self._opening = False

    @property
    def is_full(self) -> bool:
        """Whether no write is taken for want of space."""
        return has_no_space(self.failure)

    def trust(self, failures: int | None = None) -> None:
        """It is complete, as was seen after ``failures`` failures. Raises OSError: then it is not marked."""
        if failures not in (None, self.failures):
            return
        self.searchable = True
        if self.failure is None:
            self._trusted_file.touch()
            self.compared = True

    def write_again(self) -> None:
        """After a failure: tries now and then to carry all of memory into files; if it could, writes are accepted."""
        if self.failure is None or self._free_bytes() < self._memtable.estimated_memory_bytes + SPARE_BYTES:
            return
        now = time.monotonic()
        if now < self._next_attempt:
            return
        self._next_attempt, self._wait = now + self._wait, min(2 * self._wait, LONGEST_WAIT)
        before = self.live_keys()
        try:
            self._trigger_flush()
        except Exception:
            return
        self.failure, self._wait = None, FIRST_WAIT
        if self.live_keys() != before:
            self.searchable = False
        log.warning("%s is written to again", self._name)

    def live_keys(self) -> set[int]:
        """Keys of the rows that a search sees."""
        raise NotImplementedError

    def discard(self) -> None:
        """Ends without a flush: its files are about to be deleted."""
        self._bg_closed = True
        self._bg_executor.shutdown(wait=True)
        for sink in (self._wal._data_sink, self._wal._delta_sink):
            if sink is not None:
                sink.raw.close()  # Without the flush of its buffer that its own close() does.

    def create_index(self, field_name: str, index_params: dict[str, Any]) -> None:
        """Does not claim an index whose description could not be written."""
        try:
            super().create_index(field_name, index_params)
        except OSError:
            self._index_specs.pop(field_name, None)
            self._manifest.remove_index_spec(field_name)
            raise

    def _apply(self, op: Any) -> None:
        if self.failure is not None:
            raise WritesRefused(f"{self._name} accepts no writes")
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
            self._memtable = memtable  # Where files hold its rows already, they are shown once all the same.
            if not self._is_committed(wal.number + 1):
                self._wal, self._recovered_wal_bytes = wal, recovered
            self._fail(exc)
            if not self._opening:
                raise

    def _is_committed(self, wal_number: int) -> bool:
        """Whether the flush that began this log has got as far as the manifest; ours is made equal to the file."""
        with self._maintenance_lock, suppress(Exception):
            self._manifest = Manifest.load(self._data_dir)
        return bool(self._manifest.active_wal_number == wal_number)

    def _fail(self, exc: BaseException) -> None:
        self.failures += 1
        self.failure = exc
        self.compared = False
        with suppress(FileNotFoundError):
            self._trusted_file.unlink()
        what = "no space left on the disk of" if has_no_space(exc) else "cannot write to"
        log.error("%s %s (%s): %s accepts no writes", what, self._data_dir, exc, self._name)

    def _free_bytes(self) -> int:
        found = os.statvfs(self._data_dir)
        return found.f_bavail * found.f_frsize

    def _build_or_load_segment_index(self, seg: Segment, spec: IndexSpec) -> None:
        """Half an index file, of a kill or a full disk, goes. Without one its rows are compared one by one."""
        inherited: Callable[[Segment, IndexSpec], None] = super()._build_or_load_segment_index
        for _ in range(2):
            try:
                inherited(seg, spec)
                return
            except (OSError, RuntimeError) as exc:
                path = Path(seg.index_file_path(self._index_dir(seg.partition), spec.index_type, spec.field_name))
                path.unlink(missing_ok=True)
                log.warning("no index of %s, %s: %s", self._name, path.name, exc)


def has_no_space(exc: BaseException | None) -> bool:
    return isinstance(exc, OSError) and exc.errno in NO_SPACE


def _is_torn(path: Path) -> bool:
    """Whether a log ends in half a record."""
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
