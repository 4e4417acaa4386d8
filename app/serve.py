"""``python -m app.serve``: runs the server on HOST and PORT, or says in a line or two why it cannot start.

Everything that concerns the process and not the application is here: signals, the port, uvicorn's settings, open files
and garbage collection.
"""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import tempfile
from multiprocessing import Pipe
from types import FrameType

import uvicorn
from uvicorn.supervisors import multiprocess

from app.api.connections import GuardedConfig, GuardedProtocol, await_first_requests
from app.api.hosts import LOOPBACK
from app.api.listener import close_listener
from app.config import Settings
from app.core.stores.embedded.stores import begin_embedded_stores
from app.settings_check import read_settings
from app.utils.errors import StartupError
from app.utils.lifecycle import process
from app.utils.logging import uvicorn_config

OTHER_FILES = 256
"""Open files besides the clients' connections: connections to the stores, logs, libraries."""
FIRST_REQUEST_SECONDS = 5.0
"""How long to wait, after the port has closed, for the first request of a client that connected before."""
WORKER_SECONDS = 30
"""A worker process that does not respond for so long is killed and replaced. uvicorn's default of 5 s is too short if
many processes start on few cores: the import of the application takes longer, so none of them would ever serve."""
STOP_NOTICE_SECONDS = 1.0
"""How long a worker process that receives SIGTERM waits for the notice that all worker processes stop."""
GC_THRESHOLD = 20_000
"""Allocations minus deallocations before a collection of the youngest generation. At Python 3.11's default of 700, one
batch of 100 documents triggered three collections, 1 % of an insert's time."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM, continues to serve for ``drain_seconds``: not ready, and closes each connection after a response.

    Then it closes its port and finishes the requests in progress. A second signal, or Ctrl-C, ends the wait. A worker
    process acts on its first SIGTERM only, since both its parent and a service manager may send one.
    """

    config: GuardedConfig
    hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        first = not process.draining
        process.draining = True
        if not first and sig == signal.SIGTERM and self.config.stopping is not None:
            return
        self.hurried = not first or sig == signal.SIGINT
        if self.hurried or not self.started or not self.config.drain_seconds:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self.config.drain_seconds, self._stop_serving)

    def _stop_serving(self) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        tune_gc()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        shared = not await self._all_stop()
        for server in self.servers:
            await close_listener(server, self._protocol, shared=shared, ssl=self.config.ssl)
        for port in sockets or []:
            port.close()
        await await_first_requests(0 if self.hurried else FIRST_REQUEST_SECONDS)
        await super().shutdown(sockets)

    async def _all_stop(self) -> bool:
        """Whether all worker processes that share the port stop. Their parent may receive its signal a moment later."""
        stopping = self.config.stopping
        if stopping is None:
            return True
        loop = asyncio.get_running_loop()
        end = loop.time() + STOP_NOTICE_SECONDS
        while not stopping.poll() and loop.time() < end:
            await asyncio.sleep(0.01)
        return stopping.poll()

    def _protocol(self) -> GuardedProtocol:
        return GuardedProtocol(self.config, self.server_state, self.lifespan.state)


class DrainingProcess(multiprocess.Process):
    """One of WEB_CONCURRENCY worker processes."""

    config: GuardedConfig

    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = DrainingServer(self.config)
        return self._server


class DrainingProcesses(multiprocess.Multiprocess):
    """The parent of the worker processes.

    It tells them whether all of them stop. A worker process that is only replaced must not close the shared port.
    """

    def __init__(self, config: GuardedConfig, sockets: list[socket.socket]) -> None:
        config.stopping, self._running = Pipe(duplex=False)
        super().__init__(config, sockets)
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self._handle_exit)

    def _handle_exit(self, sig: int, _: FrameType | None) -> None:
        self._running.close()  # The worker processes see the end of the pipe.
        self.signal_queue.append(sig)

    def terminate_all(self) -> None:
        self._running.close()
        # The port closes when the last process closes it. That must not be this process, which accepts no connection.
        for port in self.sockets:
            port.close()
        super().terminate_all()


def tune_gc() -> None:
    """Exempts all objects of the start-up from garbage collection, and makes collections rarer.

    A full collection over the objects of the start-up takes 0.1 s.
    """
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)


def main() -> int:
    """Runs the server and returns the exit code.

    ``--try-out`` requires no API key, unless AUTH_DISABLED is set or other machines can reach HOST.
    """
    settings, problems = read_settings()
    chosen = "auth_disabled" in settings.model_fields_set
    no_keys = settings.auth_disabled
    if "--try-out" in sys.argv[1:] and not chosen and settings.host in LOOPBACK:
        os.environ["AUTH_DISABLED"] = "true"  # For the application, in this process or in worker processes.
        no_keys = True
    if no_keys and settings.allowed_hosts is None and settings.host in LOOPBACK:
        os.environ["ALLOWED_HOSTS"] = "localhost"  # Only this machine reaches the port, so only its pages may call it.
    problems += _port_problems(settings)
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 2
    _allow_files(settings.max_connections + OTHER_FILES)
    try:
        # Their start takes as long as the import of the application, and runs beside it.
        begin_embedded_stores(
            settings.data_dir,
            postgres=settings.embeds_postgres,
            milvus=settings.embeds_milvus,
            database=settings.postgres_db_name,
        )
    except StartupError as exc:
        print(exc, file=sys.stderr)
        return 2
    config = GuardedConfig(
        "app.main:app",
        host=settings.host,
        port=settings.port,
        http=GuardedProtocol,
        ws="none",
        log_config=uvicorn_config(settings.log_level, settings.log_format),
        access_log=False,
        timeout_keep_alive=settings.keep_alive_timeout,
        timeout_graceful_shutdown=settings.graceful_shutdown_timeout,
        timeout_worker_healthcheck=WORKER_SECONDS,
    )
    config.max_connections = settings.max_connections
    config.header_timeout_seconds = settings.header_timeout
    config.drain_seconds = settings.drain_seconds
    if config.workers == 1:
        server = DrainingServer(config)
        server.run()
        return 0 if server.started else 3
    # Worker processes inherit the variable, and need it before they import prometheus_client.
    with tempfile.TemporaryDirectory(prefix="chat-memory-metrics-") as folder:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        multiprocess.Process = DrainingProcess  # type: ignore[misc]  # uvicorn has no parameter for it.
        DrainingProcesses(config, [config.bind_socket()]).run()
    return 0


def _port_problems(settings: Settings) -> list[str]:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            address = f"{settings.host}:{settings.port}"
            return [f"Cannot listen on {address} ({exc.strerror}). Choose another address with HOST or PORT."]
    return []


def _allow_files(wanted: int) -> None:
    """Raises the limit of open files, which many systems set to 1,024, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


if __name__ == "__main__":
    sys.exit(main())
