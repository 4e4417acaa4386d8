"""The two servers of a comparison, each with stores of its own, and the same cheap client for both.

The client has one core to itself and everything of both servers shares another. Left to the scheduler, one server's
processes lie better than the other's for seconds or minutes, and two servers of the same commit differ by 10 to 20 %.
"""

import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks.commits import Version
from scripts.benchmarks.http import Connection
from scripts.own_server import environment_of, free_port, running

APPS = {"hash": "scripts.benchmarks.hash_app:app", "use-multilingual": "app.main:app"}
"""By embedder, as uvicorn names them. Commits back to 6cdfd0e have them under these names."""


CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
CLIENT_CORES, SERVER_CORES = CORES[:1], CORES[1:2]


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keeps this thread, and the processes that it starts inside, on these cores; without effect where there is one
    core, or no way to choose."""
    if len(CORES) < 2:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(eq=False)
class Side:
    """One version's server. ``bot`` is the one that is asked; ``loaded_bot`` is another, for bulk loads."""

    version: Version
    folder: Path
    settings: Mapping[str, str]
    address: str = ""
    bot: str = ""
    loaded_bot: str = ""
    connections: list[Connection] = field(default_factory=list)

    async def connect(self, count: int) -> None:
        for _ in range(count - len(self.connections)):
            self.connections.append(await Connection.open(self.address))

    @contextmanager
    def served(self, embedder: str) -> Iterator[None]:
        """By ``python -m app.serve``; by uvicorn where the application is not the server's own."""
        port = free_port()
        uvicorn = ["uvicorn", APPS[embedder], "--port", str(port), "--no-access-log", "--log-level", "warning"]
        with self._process(["app.serve"] if embedder != "hash" else uvicorn, port, {"PORT": str(port)}):
            try:
                yield
            finally:
                for connection in self.connections:
                    connection.close()
                self.connections.clear()

    @contextmanager
    def started(self) -> Iterator[float]:
        """By ``python -m app.serve``, as an operator does: the seconds from the command to the first answer."""
        port = free_port()
        began = time.perf_counter()
        with self._process(["app.serve"], port, {"PORT": str(port)}):
            yield time.perf_counter() - began

    @contextmanager
    def _process(self, module: list[str], port: int, more: Mapping[str, str]) -> Iterator[None]:
        environment = environment_of(self.folder, PYTHONPATH=str(self.version.tree), **self.settings, **more)
        with ExitStack() as stack:
            with pinned(SERVER_CORES):
                server = running(module, self.folder, port, environment, self.version.python)
                self.address = stack.enter_context(server).address
            yield


@asynccontextmanager
async def opened_sides(this: Version, other: Version, folder: Path, milvus: str) -> AsyncIterator[tuple[Side, Side]]:
    """Not served yet. Each has its own embedded PostgreSQL and its own Milvus, Lite or server."""
    sides = []
    async with AsyncExitStack() as stack:
        stack.enter_context(pinned(CLIENT_CORES))
        for name, version in (("this", this), ("other", other)):
            home = folder / name
            home.mkdir(mode=0o755)
            settings = {"DATA_DIR": str(home / "data"), "EMBEDDING_CACHE_MB": "0"}
            if milvus == "server":
                from tests.milvus_server import MilvusServer

                with pinned(SERVER_CORES):
                    settings["MILVUS_URI"] = stack.enter_context(MilvusServer(home / "milvus")).uri
            sides.append(Side(version, home, settings))
        yield sides[0], sides[1]
