"""Milvus Lite as a process on a Unix socket, for tests."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pymilvus import MilvusClient, MilvusException

from tests.milvus_server import pause

_ROOT = Path(__file__).parent.parent
_START_SECONDS = 30.0


class LiteServer:
    """One Milvus Lite process on ``folder``, startable again after ``kill``. It ends with its standard input."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "lite.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self._folder / "data"

    @property
    def uri(self) -> str:
        return f"unix:{self._socket}"

    def start(self) -> None:
        """Starts Milvus Lite on what ``folder`` holds and waits until it answers, about a second."""
        process = self._spawn()
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Milvus Lite did not start; see {self._folder}/lite.log")
            time.sleep(0.05)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "app.core.stores.milvus_lite.server", str(self.data), str(self._socket)]
        with (self._folder / "lite.log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log)
        return self._process

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: the process keeps its connections and does not answer."""
        assert self._process is not None
        pause(self._process.pid)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            MilvusClient(self.uri, timeout=2, dedicated=True).close()
        except MilvusException:
            return False
        return True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
