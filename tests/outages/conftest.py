"""A server process, started as scripts/server does, that reaches each store through a proxy which can fail."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import pytest_asyncio

from app.core.stores.embedded.postgres_process import EmbeddedPostgres
from tests.conftest import until
from tests.lite_server import LiteServer
from tests.milvus_server import free_ports
from tests.outages.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "rag_db_chatty"
TIMEOUT = 2.0
"""Seconds that one call to a store may take."""
LEASE = 4.0


@dataclass
class Outage:
    """The server process, its stores, and the proxies between them."""

    http: httpx.AsyncClient
    process: psutil.Process
    postgres: EmbeddedPostgres
    lite: LiteServer
    proxies: dict[str, Proxy]
    environment: dict[str, str]
    """The environment of a process that reaches the stores without proxies."""

    async def ready(self) -> bool:
        try:
            return (await self.http.get("/health/ready", timeout=5)).status_code == 200
        except httpx.TransportError:
            return False

    async def verify(self) -> tuple[int, str]:
        """Exit code and output of ``python -m app.cli verify``, without proxies."""
        command = [sys.executable, "-m", "app.cli", "verify"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()


@asynccontextmanager
async def served(environment: dict[str, str]) -> AsyncIterator[tuple[httpx.AsyncClient, psutil.Process]]:
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.serve", cwd=ROOT, env=environment | {"PORT": str(port), "AUTH_DISABLED": "true"}
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            async def answers() -> bool:
                with suppress(httpx.TransportError):
                    return (await client.get("/health/ready")).status_code == 200
                return False

            await until(answers, seconds=60)
            yield client, psutil.Process(process.pid)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outage() -> AsyncIterator[Outage]:
    async with AsyncExitStack() as stack:
        # Not pytest's folder, which is closed to the user that PostgreSQL runs as where tests run as root.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="chat-memory-outage-")))
        os.chmod(folder, 0o755)
        postgres = EmbeddedPostgres(folder / "postgres")
        address = await asyncio.to_thread(postgres.start, DATABASE)
        stack.push_async_callback(asyncio.to_thread, postgres.stop)
        (folder / "lite").mkdir()
        lite = await asyncio.to_thread(stack.enter_context, LiteServer(folder / "lite"))
        lite_socket = Path(lite.uri.removeprefix("unix:"))
        (folder / "proxy").mkdir()
        milvus_port, direct_port = free_ports(2)
        proxies = {
            "postgres": Proxy(folder / "proxy" / ".s.PGSQL.5432", Path(address["host"]) / ".s.PGSQL.5432"),
            "milvus": Proxy(milvus_port, lite_socket),
        }
        for proxy in (*proxies.values(), Proxy(direct_port, lite_socket)):
            await proxy.start()
            stack.push_async_callback(proxy.stop)
        direct = os.environ | {
            "POSTGRES_HOST": address["host"],
            "POSTGRES_USER": address["user"],
            "POSTGRES_TIMEOUT": str(TIMEOUT),
            "MILVUS_URI": f"http://127.0.0.1:{direct_port}",
            "MILVUS_TIMEOUT": str(TIMEOUT),
            "SAGA_LEASE_SECONDS": str(LEASE),
            "RECOVERY_INTERVAL_SECONDS": "0.2",
        }
        through = {"POSTGRES_HOST": str(folder / "proxy"), "MILVUS_URI": f"http://127.0.0.1:{milvus_port}"}
        http, process = await stack.enter_async_context(served(direct | through))
        yield Outage(http, process, postgres, lite, proxies, direct)
