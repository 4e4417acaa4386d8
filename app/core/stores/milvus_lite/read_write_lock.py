"""A lock for many readers or one writer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Many threads may hold it for reading, or one for writing. A waiting writer goes before readers that come later.

    A thread that holds the lock, either way, may take it for reading again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = threading.local()
        self._readers = 0
        self._waiting_writers = 0
        self._writing = False

    @contextmanager
    def read(self) -> Iterator[None]:
        if getattr(self._held, "by_this_thread", False):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._writing and not self._waiting_writers)
            self._readers += 1
        self._held.by_this_thread = True
        try:
            yield
        finally:
            self._held.by_this_thread = False
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._changed:
            self._waiting_writers += 1
            self._changed.wait_for(lambda: not self._writing and not self._readers)
            self._waiting_writers -= 1
            self._writing = True
        self._held.by_this_thread = True
        try:
            yield
        finally:
            self._held.by_this_thread = False
            with self._changed:
                self._writing = False
                self._changed.notify_all()
