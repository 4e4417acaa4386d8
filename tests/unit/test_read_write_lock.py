"""Readers share the lock, a writer has it alone, and a waiting writer goes before later readers."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from app.core.stores.milvus_lite.read_write_lock import ReadWriteLock

Take = Callable[[], AbstractContextManager[None]]


class Holder:
    """A thread that takes the lock, reports it, and holds it until it is released."""

    def __init__(self, take: Take) -> None:
        self.has_it = threading.Event()
        self._release = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(take,), daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._release.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self, take: Take) -> None:
        with take():
            self.has_it.set()
            self._release.wait(10)


@pytest.fixture
def lock() -> ReadWriteLock:
    return ReadWriteLock()


def until_a_writer_waits(lock: ReadWriteLock) -> None:
    with lock._changed:
        while not lock._waiting_writers:
            lock._changed.wait(0.001)


def test_readers_hold_it_together(lock: ReadWriteLock) -> None:
    first, second = Holder(lock.read), Holder(lock.read)
    assert first.has_it.wait(10)
    assert second.has_it.wait(10)
    first.release()
    second.release()


def test_a_writer_waits_for_readers_and_goes_before_later_ones(lock: ReadWriteLock) -> None:
    reader = Holder(lock.read)
    assert reader.has_it.wait(10)
    writer = Holder(lock.write)
    until_a_writer_waits(lock)
    later = Holder(lock.read)
    assert not writer.has_it.is_set()
    reader.release()
    assert writer.has_it.wait(10)
    assert not later.has_it.is_set()
    writer.release()
    assert later.has_it.wait(10)
    later.release()


def test_a_writer_has_it_alone(lock: ReadWriteLock) -> None:
    writer = Holder(lock.write)
    assert writer.has_it.wait(10)
    other = Holder(lock.write)
    until_a_writer_waits(lock)
    assert not other.has_it.is_set()
    writer.release()
    assert other.has_it.wait(10)
    other.release()


def test_who_holds_it_may_read_again_though_a_writer_waits(lock: ReadWriteLock) -> None:
    with lock.read():
        writer = Holder(lock.write)
        until_a_writer_waits(lock)
        with lock.read():
            assert not writer.has_it.is_set()
    assert writer.has_it.wait(10)
    writer.release()
    with lock.write(), lock.read():
        pass
