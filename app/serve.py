"""python -m app.serve: the server on HOST and PORT, with a word for all that keeps it from starting."""

import asyncio
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

SPARE_FILES = 256
"""Beside connections: those to the stores, and what is open anyway."""
FIRST_REQUEST_SECONDS = 5.0
"""When the port has closed: for the first request of a client that connected before."""
WORKER_SECONDS = 30
"""One of several processes that says nothing for so long is killed and replaced. uvicorn's 5 s are less than an import
of the application takes where many processes start on few cores: none of them would ever come to serve."""
TOLD_SECONDS = 1.0
"""For the word that all processes stop, where one is told to."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM serves on for ``drain_seconds``, not ready any more and ending each connection with its next answer.

    Then it closes its port and lets what is in flight finish. A second signal, or Ctrl-C, skips the wait. One of
    several processes heeds SIGTERM once: it may come both from the parent and from whatever stops them all.
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        shared = not await self._all_stop()
        for server in self.servers:
            await close_listener(server, self._protocol, shared=shared, ssl=self.config.ssl)
        for port in sockets or []:
            port.close()
        await await_first_requests(0 if self.hurried else FIRST_REQUEST_SECONDS)
        await super().shutdown(sockets)

    async def _all_stop(self) -> bool:
        """Whether the processes that share the port stop as well. Their parent may learn of it a moment later."""
        stopping = self.config.stopping
        if stopping is None:
            return True
        loop = asyncio.get_running_loop()
        end = loop.time() + TOLD_SECONDS
        while not stopping.poll() and loop.time() < end:
            await asyncio.sleep(0.01)
        return stopping.poll()

    def _protocol(self) -> GuardedProtocol:
        return GuardedProtocol(self.config, self.server_state, self.lifespan.state)


class DrainingProcess(multiprocess.Process):
    """One of WEB_CONCURRENCY processes."""

    config: GuardedConfig

    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = DrainingServer(self.config)
        return self._server


class DrainingProcesses(multiprocess.Multiprocess):
    """Their parent. It tells them whether all of them stop: one that is replaced leaves the port to the others."""

    def __init__(self, config: GuardedConfig, sockets: list[socket.socket]) -> None:
        config.stopping, self._running = Pipe(duplex=False)
        super().__init__(config, sockets)
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, self._handle_exit)

    def _handle_exit(self, sig: int, _: FrameType | None) -> None:
        self._running.close()  # Which ends the other end in all processes.
        self.signal_queue.append(sig)

    def terminate_all(self) -> None:
        self._running.close()
        # The port closes when the last process closes it, and that should not be this one, which accepts nobody.
        for port in self.sockets:
            port.close()
        super().terminate_all()


def main() -> int:
    """``--try-out``: without keys, unless settings have AUTH_DISABLED or a HOST that others can reach."""
    settings, problems = read_settings()
    chosen = "auth_disabled" in settings.model_fields_set
    keyless = settings.auth_disabled
    if "--try-out" in sys.argv[1:] and not chosen and settings.host in LOOPBACK:
        os.environ["AUTH_DISABLED"] = "true"  # For the application, in this process or in several.
        keyless = True
    if keyless and settings.allowed_hosts is None and settings.host in LOOPBACK:
        os.environ["ALLOWED_HOSTS"] = "localhost"  # The port is for this machine alone: so is what pages on it may ask.
    problems += _port_problems(settings)
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 2
    _allow_files(settings.max_connections + SPARE_FILES)
    try:
        # They take as long to start as the application takes to be imported.
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
    config.connections = settings.max_connections
    config.header_timeout_seconds = settings.header_timeout
    config.drain_seconds = settings.drain_seconds
    if config.workers == 1:
        server = DrainingServer(config)
        server.run()
        return 0 if server.started else 3
    # Inherited by the processes, which must find it before they import the library of metrics.
    with tempfile.TemporaryDirectory(prefix="chat-memory-metrics-") as folder:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        multiprocess.Process = DrainingProcess  # type: ignore[misc]  # uvicorn has no other way to name it.
        DrainingProcesses(config, [config.bind_socket()]).run()
    return 0


def _port_problems(settings: Settings) -> list[str]:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as exc:
            place = f"{settings.host}:{settings.port}"
            return [f"Cannot listen on {place} ({exc.strerror}): choose another with HOST or PORT."]
    return []


def _allow_files(wanted: int) -> None:
    """Many systems allow a process 1,024 open files unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


if __name__ == "__main__":
    sys.exit(main())
