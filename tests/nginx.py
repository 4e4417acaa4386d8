"""nginx as deploy/nginx/nginx.conf sets it up, in front of servers of the tests: ``apt-get install nginx-light``."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

CONFIGURATION = Path(__file__).resolve().parents[1] / "deploy" / "nginx" / "nginx.conf"
PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_nginx = pytest.mark.skipif(PROGRAM is None, reason="needs nginx: apt-get install nginx-light")
SERVERS = ("api:8000", "api-2:8000")
START_SECONDS = 10


def configuration(port: int, servers: tuple[int, int], folder: Path) -> str:
    """The file with the addresses and the folder of a test, and nothing else changed."""
    text = CONFIGURATION.read_text()
    changes = {f"server {name} ": f"server 127.0.0.1:{own} " for name, own in zip(SERVERS, servers, strict=True)}
    changes["listen 8080;"] = f"listen 127.0.0.1:{port};"
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text.replace(" /tmp/", f" {folder}/")


@contextmanager
def nginx(port: int, servers: tuple[int, int]) -> Iterator[str]:
    """Yields the address of an nginx that listens on ``port`` in front of servers on these ports of loopback."""
    assert PROGRAM is not None
    with TemporaryDirectory(prefix="chat-memory-nginx-") as name:
        folder = Path(name)
        (folder / "nginx.conf").write_text(configuration(port, servers, folder))
        more = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")  # Its folder is ours.
        command = [PROGRAM, "-c", str(folder / "nginx.conf"), "-e", "stderr", "-g", more]
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                _wait_until_ready(port, process, folder / "log")
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def _wait_until_ready(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.02)
    raise RuntimeError(f"nginx did not start:\n{log.read_text()}")
