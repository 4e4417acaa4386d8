"""A small load balancer: passes connections on to server processes that report ready."""

import asyncio
from contextlib import suppress

import httpx

PROBE_SECONDS = 0.1


class Balancer:
    """Listens on ``port`` of loopback. A new connection goes to one of the backends that last answered ready."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ready: dict[int, bool] = {}
        self._turn = 0

    def add(self, port: int) -> None:
        self._ready[port] = False

    def remove(self, port: int) -> None:
        del self._ready[port]

    def ready(self) -> list[int]:
        return [port for port, ready in self._ready.items() if ready]

    async def run(self) -> None:
        """Until cancelled."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        async with server, httpx.AsyncClient(timeout=2) as probe:
            while True:
                for port in list(self._ready):
                    answers = False
                    with suppress(httpx.TransportError):
                        # A new connection for each probe, as orchestrators do.
                        url = f"http://127.0.0.1:{port}/health/ready"
                        answers = (await probe.get(url, headers={"connection": "close"})).status_code == 200
                    if port in self._ready:
                        self._ready[port] = answers
                await asyncio.sleep(PROBE_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = self.ready()
        if not ready:
            writer.close()
            return
        self._turn += 1
        try:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", ready[self._turn % len(ready)])
            await asyncio.gather(_pump(reader, onward), _pump(onward_reader, writer))
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
