"""Measures the memory of a server and its embedded stores."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Memory:
    """The peaks in MB: ``most`` of the server's process, ``most_of_all`` with its stores."""

    server: psutil.Process
    folder: Path
    most: float = 0.0
    most_of_all: float = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        over = threading.Event()
        self.most = self.most_of_all = 0.0
        thread = threading.Thread(target=self._watch, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event) -> None:
        for turn in itertools.count():
            self.most = max(self.most, self.server.memory_info().rss / 2**20)
            if turn % 20 == 0:
                self.most_of_all = max(self.most_of_all, megabytes(self.server.pid, self.folder))
            if over.wait(0.1):
                return


def megabytes(pid: int, folder: Path) -> float:
    """Memory in MB of a server and its embedded stores in ``folder``. Pages that n processes share count 1/n each."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid == pid or any(str(folder) in word for word in process.cmdline()):
                found |= {one.pid: one for one in [process, *process.children(recursive=True)]}
    total = 0
    for process in found.values():
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**20
