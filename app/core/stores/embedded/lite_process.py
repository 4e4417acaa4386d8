"""Starts and stops the Milvus Lite process. The keeper uses it."""

import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("keeper.milvus")

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class EmbeddedLite:
    def __init__(self, data: Path, socket: Path) -> None:
        self._data = data
        self._socket = socket
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Starts the process if it does not run. Returns its URI."""
        if self._process is None or self._process.returncode is not None:
            self._data.mkdir(exist_ok=True)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "app.core.stores.milvus_lite.server",
                str(self._data),
                str(self._socket),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert self._process.stdout is not None
            line = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
            if line.strip() != b"ready":
                await self._process.wait()
                raise RuntimeError(f"Milvus Lite ended with status {self._process.returncode}")
        return f"unix:{self._socket}"

    async def restart_if_dead(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            log.warning("Milvus Lite died; starting it again")
            await self.start()

    async def stop(self) -> None:
        """Closes the process's standard input, at which it closes its data and ends."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            log.warning("Milvus Lite did not stop; killing it")
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
