"""A server of a script's own: embedded stores in a temporary folder, gone afterwards."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.config import Settings

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 120
STOP_SECONDS = 30


@contextmanager
def own_server(app: str = "app.main:app", **settings: str) -> Iterator[str]:
    """Its address. ``settings`` are environment variables; those of the caller do not count, nor does .env.

    With ``DATA_DIR`` among them it is somebody else's stores that are used. ``app`` as uvicorn names it.
    """
    with own_folder() as folder, server_in(folder, app, **settings) as address:
        yield address


@contextmanager
def own_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="chat-memory-") as folder:
        yield Path(folder)


def environment_of(folder: Path, **settings: str) -> dict[str, str]:
    """Of a process whose data is in ``folder``."""
    environment = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    given = {"DATA_DIR": f"{folder}/data", "LOG_LEVEL": "WARNING", "AUTH_DISABLED": "true", "PYTHONPATH": str(ROOT)}
    return environment | given | settings


@contextmanager
def server_in(folder: Path, app: str = "app.main:app", **settings: str) -> Iterator[str]:
    """The address of a server whose data is, and stays, in ``folder``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = environment_of(folder, **settings)
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--no-access-log"]
    with subprocess.Popen([*command, "--log-level", "warning"], cwd=folder, env=environment) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(address, process)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health/ready", timeout=5):  # noqa: S310 - our own address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit("The server did not become ready; what it says stands above.")
