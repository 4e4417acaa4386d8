"""A proxy between the server and a store that can refuse, cut and delay connections or drop answers."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Literal

Fault = Literal["refuse", "cut", "delay", "drop"]
"""refuse: nothing listens. cut: each connection is closed at once. delay: data takes longer than a call may take.
drop: requests arrive, answers do not."""

FAULTS: tuple[Fault, ...] = ("refuse", "cut", "delay", "drop")
DELAY_SECONDS = 5.0


class Proxy:
    """Listens on a Unix socket's path or a TCP port of loopback and passes on to the Unix socket ``target``."""

    def __init__(self, listen: Path | int, target: Path) -> None:
        self._listen = listen
        self._target = target
        self._fault: Fault | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        if isinstance(self._listen, int):
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._listen)
        else:
            self._server = await asyncio.start_unix_server(self._serve, self._listen)

    async def stop(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
            if isinstance(self._listen, Path):
                self._listen.unlink(missing_ok=True)
        self._close_all()

    async def fail(self, fault: Fault) -> None:
        """Fails in this way until ``restore``."""
        self._fault = fault
        if fault == "refuse":
            await self.stop()
        elif fault == "cut":
            self._close_all()

    async def restore(self) -> None:
        """Works again. Connections from before are closed, as after an outage."""
        self._fault = None
        self._close_all()
        if self._server is None:
            await self.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._fault == "cut":
                return
            onward_reader, onward = await asyncio.open_unix_connection(self._target)
            self._writers.add(onward)
            try:
                await asyncio.gather(
                    self._pump(reader, onward, answers=False), self._pump(onward_reader, writer, answers=True)
                )
            finally:
                self._close(onward)
        except OSError:
            pass  # The store itself is unreachable.
        finally:
            self._close(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._fault == "delay":
                    await asyncio.sleep(DELAY_SECONDS)
                if self._fault == "drop" and answers:
                    continue
                writer.write(data)
                await writer.drain()
        self._close(writer)

    def _close(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()

    def _close_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()
