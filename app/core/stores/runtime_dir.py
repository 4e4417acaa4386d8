"""Where the sockets of a data directory's embedded stores are."""

import hashlib
import os
import tempfile
from pathlib import Path

LOCK_NAME = "keeper.lock"
LOG_NAME = "keeper.log"
MAX_SOCKET_PATH = 100
"""A Unix socket's path may have 107 bytes on Linux, 103 on macOS."""


def runtime_dir(data_dir: Path) -> Path:
    """``data_dir``/run, or a private directory with a short name where that path is too long for a socket.

    Raises PermissionError when the short name belongs to somebody else.
    """
    chosen = data_dir / "run"
    if len(os.fsencode(chosen / "control.sock")) > MAX_SOCKET_PATH:
        name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        chosen = Path(tempfile.gettempdir()) / f"chat-memory-{os.getuid()}-{name}"
    chosen.mkdir(mode=0o700, exist_ok=True)
    if chosen.stat().st_uid != os.getuid():
        raise PermissionError(f"{chosen} belongs to somebody else")
    return chosen


def control_socket(data_dir: Path) -> Path:
    return runtime_dir(data_dir) / "control.sock"
