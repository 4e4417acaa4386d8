"""The processes of a crash test: API servers, which are killed, and the stores, which are sometimes killed too."""

import asyncio
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import psutil
from pymilvus import MilvusClient, MilvusException

from app.core.stores.address import PostgresAddress
from app.core.stores.embedded.stores import embedded_stores
from app.core.stores.milvus.lite_protocol import SERVICE, UNVERIFIED_COLLECTIONS
from tests.chaos import server
from tests.chaos.breaks import LITE_BREAKS
from tests.chaos.fault import RESUME, Fault
from tests.chaos.server import ServerConfig
from tests.milvus_server import MilvusServer
from tests.small_disk import CannotMount, SmallDisk, small_disk

MODULES = {"keeper": "app.core.stores.embedded.keeper", "lite_server": "app.core.stores.milvus_lite.server"}
"""The module of each on its command line."""
ROOT = Path(__file__).resolve().parents[2]
DATABASE = "rag_db_chatty"
# A process that is forked from one with all modules imported starts at once.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.server"])


class Api:
    """One server process. ``reached``: the fail point at which it died or stopped, or None."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.reached: str | None = None
        self.dead = asyncio.Event()
        self._control, theirs = _context.Pipe()
        self._process = _context.Process(target=server.run, args=(config, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = asyncio.Event()
        self.stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._read)
        loop.add_reader(self._process.sentinel, self._ended)

    async def ready(self, seconds: float = 180.0) -> bool:
        """Waits until the server is ready. False when it died before."""
        waits = [asyncio.create_task(event.wait()) for event in (self._ready, self.dead)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not (self._ready.is_set() or self.dead.is_set()):
            raise TimeoutError(f"the server did not start; see {self.config.log}")
        return self._ready.is_set()

    def resume(self) -> None:
        """Ends a delay that has no end of its own."""
        with suppress(OSError):
            self._control.send(RESUME)

    def arm(self, fault: Fault | None) -> None:
        with suppress(OSError):
            self._control.send(fault)

    def signal(self, number: int) -> None:
        if not self.dead.is_set():
            with suppress(ProcessLookupError):  # It has just died; assert_killed checks how.
                os.kill(self._process.pid or 0, number)

    async def kill(self) -> None:
        """Sends SIGKILL, unless the process is dead already, and waits for its end."""
        self.signal(signal.SIGKILL)
        await self.dead.wait()

    def assert_killed(self) -> None:
        if self._process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"the server ended with {self._process.exitcode}, not killed; see {self.config.log}")

    def _read(self) -> None:
        try:
            while self._control.poll():
                word, point = self._control.recv()
                if word == "ready":
                    self._ready.set()
                else:
                    self.reached = point
                    self.stopped.set()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._control.fileno())

    def _ended(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.sentinel)
        self._read()
        loop.remove_reader(self._control.fileno())
        self._process.join()
        self._control.close()
        self.dead.set()


class StoreProcesses:
    """Both stores, which stay open while API processes die. ``kill`` kills one of them or all."""

    def __init__(self, folder: Path, milvus: str, broken: str | None, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._milvus = milvus
        self._broken = broken
        self._stack = stack
        self._keeper = AsyncExitStack()
        self._lite: subprocess.Popen[bytes] | None = None
        self.disk: SmallDisk | None = None
        """The disk of the embedded stores, if this machine can mount one."""
        self.postgres: PostgresAddress
        self.milvus_uri = ""

    @property
    def killable(self) -> tuple[str, ...]:
        return ("keeper", "lite_server", "postgres", "all stores") if self._milvus == "lite" else ("postgres",)

    async def open(self) -> None:
        if self._milvus == "lite":
            with suppress(CannotMount):
                self.disk = self._stack.enter_context(small_disk(self._folder / "data"))
        self._stack.push_async_callback(self._close)
        await self._attach()
        if self._milvus == "server":
            milvus = MilvusServer(self._folder / "milvus-server", {"queryNode.segcore.interimIndex.enableIndex": False})
            milvus.start()
            self._stack.callback(milvus.kill)
            self.milvus_uri = milvus.uri
        elif self._broken in LITE_BREAKS:
            self._start_broken_lite()

    async def kill(self, name: str) -> None:
        """Kills the store's processes and waits until the stores answer again."""
        self.kill_processes(name)
        await self.wait_until_back(name)

    def kill_processes(self, name: str) -> None:
        """Sends SIGKILL to the store's processes."""
        for each in ("keeper", "lite_server", "postgres") if name == "all stores" else (name,):
            if self._lite and each == "lite_server":
                self._lite.kill()
                self._lite.wait()
            else:
                self._kill_one(each)

    async def wait_until_back(self, name: str) -> None:
        """Waits until the stores answer after the store ``name`` was killed."""
        if self._lite and self._lite.poll() is not None:
            self._start_broken_lite()
        if name in ("keeper", "all stores"):
            await self._keeper.aclose()
            await self._attach()
        await self.wait_for_answers()

    def unverified_collections(self) -> list[list[Any]]:
        """The collections that Milvus Lite marks as possibly incomplete."""
        if not self.milvus_uri.startswith("unix:"):
            return []
        with grpc.insecure_channel(self.milvus_uri) as channel:
            ask = channel.unary_unary(f"/{SERVICE}/{UNVERIFIED_COLLECTIONS}")
            found: list[list[Any]] = json.loads(ask(b'{"claim": 0}', timeout=10))
        return found

    async def wait_for_answers(self) -> None:
        """Waits until both stores answer."""
        async with asyncio.timeout(180):
            while not (await self._postgres_answers() and await asyncio.to_thread(self._milvus_answers)):
                await asyncio.sleep(0.05)

    async def _attach(self) -> None:
        opened = await self._keeper.enter_async_context(
            embedded_stores(self._folder / "data", postgres=True, milvus=self._embedded_lite, database=DATABASE)
        )
        assert opened.postgres is not None
        self.postgres = opened.postgres
        self.milvus_uri = opened.milvus_uri or self.milvus_uri

    @property
    def _embedded_lite(self) -> bool:
        return self._milvus == "lite" and self._broken not in LITE_BREAKS

    def _kill_one(self, name: str) -> None:
        data = self._folder / "data"
        if name == "postgres":
            pid = int((data / "postgres" / "postmaster.pid").read_text().split()[0])
            victims = [psutil.Process(pid), *psutil.Process(pid).children()]
        else:
            victims = [
                process
                for process in psutil.process_iter(["cmdline"])
                if MODULES[name] in (line := process.info["cmdline"] or [])
                and any(word.startswith(str(data)) for word in line)
            ]
        if not victims:
            raise RuntimeError(f"there is no process of {name} to kill")
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()

    def _start_broken_lite(self) -> None:
        data, socket = self._folder / "data" / "broken", self._folder / "broken.sock"
        data.mkdir(exist_ok=True)
        with (self._folder / "broken.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.chaos.broken_lite", str(data), str(socket), self._broken or ""]
            self._lite = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self.milvus_uri = f"unix:{socket}"

    async def _postgres_answers(self) -> bool:
        try:
            connection = await asyncpg.connect(
                host=self.postgres.host, port=self.postgres.port, user=self.postgres.user, database=DATABASE, timeout=5
            )
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        await connection.close()
        return True

    def _milvus_answers(self) -> bool:
        try:
            client = MilvusClient(self.milvus_uri, timeout=2, dedicated=True)
        except MilvusException:
            return False
        client.close()
        return True

    async def _close(self) -> None:
        if self._lite:
            self._lite.kill()
            self._lite.communicate()
        await self._keeper.aclose()
        if self.disk:  # Its files may be needed for a report, and are gone after the unmount.
            with suppress(OSError):
                shutil.copytree(self.disk.folder, self._folder / "data-kept", symlinks=True, ignore=_no_sockets)


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_socket()]


@asynccontextmanager
async def store_processes(folder: Path, milvus: str, broken: str | None) -> AsyncIterator[StoreProcesses]:
    async with AsyncExitStack() as stack:
        stores = StoreProcesses(folder, milvus, broken, stack)
        await stores.open()
        await stores.wait_for_answers()
        yield stores


def config_for(stores: StoreProcesses, folder: Path, broken: str | None, *, name: str = "api") -> ServerConfig:
    config = ServerConfig(stores.postgres, stores.milvus_uri, folder / f"{name}.sock", folder / f"{name}.log", bound=2)
    if stores.milvus_uri.startswith("http"):  # A load takes seconds.
        config = replace(config, lease=1.5, late_write_window=1.5, milvus_timeout=5.0, bound=3, idle=2.0)
    return config if broken is None else replace(config, broken=broken, bound=0)
