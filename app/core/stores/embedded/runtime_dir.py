"""The directories for the Unix sockets of a data directory's embedded stores."""

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
"""Below the limits of a Unix socket's path: 107 bytes on Linux, 103 on macOS."""
SAFE_PATH = re.compile(r"[A-Za-z0-9/._-]+")
"""Characters that are safe in a socket's path: pg_ctl does not quote it, and gRPC decodes %."""
LONGEST_NAME = "milvus-000000.sock"


def runtime_dir(data_dir: Path) -> Path:
    """``data_dir``/run, or a private directory with a short path if a socket cannot have that path.

    Raises PermissionError if the short path belongs to another user.
    """
    return _private(socket_dir(data_dir / "run"), os.geteuid())


def postgres_socket_dir(data: Path, user: int) -> Path:
    """PostgreSQL's data directory, or a private directory with a short path, owned by ``user``, who runs PostgreSQL."""
    chosen = socket_dir(data)
    return chosen if chosen == data else _private(chosen, user)


def socket_dir(wanted: Path) -> Path:
    """``wanted``, or the path of a short-named directory below the directory for temporary files."""
    if _takes_socket(wanted):
        return wanted
    name = f"chat-memory-{os.geteuid()}-{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]}"
    chosen = Path(tempfile.gettempdir()) / name
    return chosen if _takes_socket(chosen) else Path("/tmp") / name  # noqa: S108  _private() checks its owner.


def _takes_socket(folder: Path) -> bool:
    return bool(SAFE_PATH.fullmatch(str(folder))) and len(os.fsencode(folder / LONGEST_NAME)) <= MAX_SOCKET_PATH


def _private(folder: Path, owner: int) -> Path:
    """Makes a directory that no other user can access, because the embedded stores require no password."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (owner, os.geteuid()):
        raise PermissionError(errno.EPERM, f"{folder} belongs to another user")
    os.chown(folder, owner, -1)
    folder.chmod(0o700)
    return folder


def control_socket(data_dir: Path) -> Path:
    return runtime_dir(data_dir) / "control.sock"
