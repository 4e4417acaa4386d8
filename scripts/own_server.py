"""Starts servers for scripts and tests: embedded stores in a temporary folder that is deleted afterwards."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.config import Settings

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 120
STOP_SECONDS = 30
KEEP_ALIVE = ["--timeout-keep-alive", "75"]
"""As app.serve has it. By default uvicorn closes a connection after 5 s, as clients do, and a request may be lost."""


@contextmanager
def own_server(app: str = "app.main:app", **settings: str) -> Iterator[str]:
    """Yields the address. ``settings`` are environment variables; those of the caller and .env are ignored.

    With ``DATA_DIR`` among them, the server uses the stores in that folder. ``app`` as uvicorn names it.
    """
    with own_folder() as folder, server_in(folder, app, **settings) as address:
        yield address


@contextmanager
def own_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="chat-memory-") as folder:
        yield Path(folder)


def environment_of(folder: Path, **settings: str) -> dict[str, str]:
    """The environment of a process whose data is in ``folder``."""
    environment = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    given = {"DATA_DIR": f"{folder}/data", "LOG_LEVEL": "WARNING", "AUTH_DISABLED": "true", "PYTHONPATH": str(ROOT)}
    return environment | given | settings


def own_key(folder: Path, account: str | None, scope: str) -> str:
    """Creates an API key for a server in ``folder`` and returns it. ``account``: None for the scope operator."""
    of = () if account is None else ("--account", account)
    command = [sys.executable, "-m", "app.cli", "keys", "create", *of, "--scope", scope]
    return subprocess.check_output(command, cwd=folder, env=environment_of(folder), text=True).strip()


@contextmanager
def server_in(folder: Path, app: str = "app.main:app", **settings: str) -> Iterator[str]:
    """Yields the address of a server whose data is in ``folder``, and is kept there."""
    port = free_port()
    uvicorn = ["uvicorn", app, "--port", str(port), "--no-access-log", "--log-level", "warning", *KEEP_ALIVE]
    command = ["app.serve"] if app == "app.main:app" else uvicorn  # An operator's server tunes garbage collection.
    with running(command, folder, port, environment_of(folder, PORT=str(port), **settings)) as process:
        yield process.address


@dataclass(frozen=True, slots=True)
class Process:
    address: str
    pid: int


@contextmanager
def served_in(folder: Path, **settings: str) -> Iterator[Process]:
    """The same by ``python -m app.serve``, which also limits heads and connections."""
    port = free_port()
    environment = environment_of(folder, PORT=str(port), **settings)
    with running(["app.serve"], folder, port, environment) as process:
        yield process


@contextmanager
def running(
    module: Sequence[str], folder: Path, port: int, environment: Mapping[str, str], python: str = sys.executable
) -> Iterator[Process]:
    """Runs ``python -m module`` and yields once it is ready. Raises SystemExit when it does not become ready."""
    with subprocess.Popen([python, "-m", *module], cwd=folder, env=environment) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(address, process)
            yield Process(address, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health/ready", timeout=5):  # noqa: S310 - our own address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)
    raise SystemExit("The server did not become ready; its messages are above.")
