"""Where the sockets of a data directory's embedded stores are."""

import errno
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

LOCK_NAME = "keeper.lock"
LOG_NAME = "keeper.log"
MAX_SOCKET_PATH = 100
"""A Unix socket's path may have 107 bytes on Linux, 103 on macOS."""
PLAIN = re.compile(r"[A-Za-z0-9/._-]+")
"""Of socket paths that go through pg_ctl, which does not quote them, and through gRPC, which decodes %."""
LONGEST_NAME = "milvus-000000.sock"


def runtime_dir(data_dir: Path) -> Path:
    """``data_dir``/run, or a private directory with a short name where that path is nothing for a socket.

    Raises PermissionError when the short name belongs to somebody else.
    """
    return _private(socket_dir(data_dir / "run"), os.geteuid())


def postgres_socket_dir(data: Path, user: int) -> Path:
    """The folder ``data`` of PostgreSQL itself, or another as above, of the user that PostgreSQL runs as."""
    chosen = socket_dir(data)
    return chosen if chosen == data else _private(chosen, user)


def socket_dir(wanted: Path) -> Path:
    if _takes_socket(wanted):
        return wanted
    name = f"chat-memory-{os.geteuid()}-{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]}"
    chosen = Path(tempfile.gettempdir()) / name
    return chosen if _takes_socket(chosen) else Path("/tmp") / name  # noqa: S108  Made private, or refused.


def _takes_socket(folder: Path) -> bool:
    return bool(PLAIN.fullmatch(str(folder))) and len(os.fsencode(folder / LONGEST_NAME)) <= MAX_SOCKET_PATH


def _private(folder: Path, owner: int) -> Path:
    """Nobody else can listen or connect there: the embedded stores ask for no password."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (owner, os.geteuid()):
        raise PermissionError(errno.EPERM, f"{folder} belongs to somebody else")
    os.chown(folder, owner, -1)
    folder.chmod(0o700)
    return folder


def control_socket(data_dir: Path) -> Path:
    return runtime_dir(data_dir) / "control.sock"
