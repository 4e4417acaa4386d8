"""A PgBouncer in front of a PostgreSQL of the tests, if it is installed: ``apt-get install pgbouncer``."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from app.core.stores.address import PostgresAddress

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer: apt-get install pgbouncer")
START_SECONDS = 10
CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
unix_socket_dir = {folder}
unix_socket_mode = 0777
logfile = {folder}/log
auth_type = trust
auth_file = {folder}/users
admin_users = {user}
max_client_conn = 200
"""


@contextmanager
def pgbouncer(
    server: PostgresAddress, *, users: Sequence[str] = (), pool_mode: str = "transaction", **options: str | int
) -> Iterator[PostgresAddress]:
    """Yields the address of a PgBouncer with these settings and two server connections for each database and role."""
    with (
        TemporaryDirectory(prefix="chat-memory-pgbouncer-") as name,
        pgbouncer_in(Path(name), server, users=users, pool_mode=pool_mode, **options) as address,
    ):
        yield address


@contextmanager
def pgbouncer_in(
    folder: Path, server: PostgresAddress, *, users: Sequence[str] = (), **options: str | int
) -> Iterator[PostgresAddress]:
    """The same in a folder that is kept."""
    assert PROGRAM is not None
    folder.chmod(0o777)  # PgBouncer does not run as root.
    given = {"pool_mode": "transaction", "default_pool_size": 2, **options}
    text = CONFIGURATION.format(host=server.host, port=server.port, user=server.user, folder=folder)
    text += "".join(f"{name} = {value}\n" for name, value in given.items())
    (folder / "pgbouncer.ini").write_text(text)
    (folder / "users").write_text("".join(f'"{user}" ""\n' for user in (server.user, *users)))
    with subprocess.Popen([PROGRAM, "-q", *_user_option(server), str(folder / "pgbouncer.ini")]) as process:
        try:
            _wait_until_ready(folder / ".s.PGSQL.6432", process)
            yield replace(server, host=str(folder), port=6432)
        finally:
            process.terminate()


def _user_option(server: PostgresAddress) -> Sequence[str]:
    """Root must choose another user, and only its own user may open the socket of the embedded server."""
    if os.geteuid() != 0:
        return ()
    folder = Path(server.host)
    return ("-u", folder.owner() if folder.is_absolute() else pwd.getpwnam("nobody").pw_name)


def _wait_until_ready(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                time.sleep(0.02)
            else:
                return
    log = path.parent / "log"
    pytest.fail(f"PgBouncer did not start:\n{log.read_text() if log.exists() else ''}")
