"""Server processes, started as scripts/server does, on embedded stores that they share."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from app.config import Settings
from tests.conftest import until
from tests.milvus_server import free_ports

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Served:
    process: asyncio.subprocess.Process
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def served(
    folder: Path, *, before: Sequence[str] = (), port: int | None = None, **settings: str
) -> AsyncIterator[Served]:
    """Starts a server on the data in ``folder``, yields it when it is ready, and stops it at the end.

    ``before``: a command that becomes the server, such as ``nice``. ``port``: one of ``free_ports``.
    """
    port = port or free_ports(1)[0]
    environment = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    environment |= {"DATA_DIR": str(folder / "data"), "PORT": str(port), "AUTH_DISABLED": "true", **settings}
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *before, sys.executable, "-m", "app.serve", cwd=ROOT, env=environment, stderr=output
        )
    server = Served(process, port, log)
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=5) as client:

            async def ready() -> bool:
                assert process.returncode is None, log.read_text()
                with suppress(httpx.TransportError):
                    return (await client.get("/health/ready")).status_code == 200
                return False

            await until(ready, seconds=90)
        yield server
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
def folder():  # type: ignore[no-untyped-def]
    # Not pytest's folder: as root, PostgreSQL runs as another user, who cannot open it.
    with TemporaryDirectory(prefix="chat-memory-operations-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
