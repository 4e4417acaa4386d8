"""The server under test: the whole application in its own process, with the faults that the tester arms."""

import asyncio
import ctypes
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn

from app.config import Settings
from app.core.connect import open_stores
from app.core.embedding.port import PartialEmbeddingError, Vectors
from app.core.services import Services, build_services
from app.core.stores.address import PostgresAddress
from app.core.stores.milvus.index import MilvusIndex
from app.main import create_app
from app.utils.errors import EmbeddingInvalid
from app.utils.failpoints import install
from tests.chaos.breaks import break_statements, shorten_collector_pause, shorten_idle_time
from tests.chaos.chunk_text import UNEMBEDDABLE
from tests.chaos.fault import Fault, FaultInjector
from tests.doubles.hash_embedder import HashEmbedder


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """``lease`` and ``late_write_window`` are in seconds, and short, so that recovery is quick."""

    postgres: PostgresAddress
    milvus_uri: str
    socket: Path
    log: Path
    lease: float = 0.6
    late_write_window: float = 0.6
    milvus_timeout: float = 2.0
    bound: int = 0
    idle: float = 0.3
    """Collections that may be loaded, and the seconds after its last use in which one is not released."""
    broken: str | None = None
    armed: Fault | None = None

    def settings(self) -> Settings:
        return Settings(
            _env_file=None,  # type: ignore[call-arg]
            auth_disabled=True,
            postgres_host=self.postgres.host,
            postgres_port=self.postgres.port,
            postgres_user=self.postgres.user,
            postgres_db_name=self.postgres.database,
            postgres_timeout=5,
            milvus_uri=self.milvus_uri,
            milvus_timeout=self.milvus_timeout,
            saga_lease_seconds=self.lease,
            recovery_interval_seconds=0.1,
            max_loaded_collections=self.bound,
            startup_timeout=120,
            log_level="INFO",
        )


class Embedder(HashEmbedder):
    """Has no vector for the text UNEMBEDDABLE, so that some writes are compensated."""

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        vectors = await super().embed_documents(texts)
        errors = {index: EmbeddingInvalid(UNEMBEDDABLE) for index, text in enumerate(texts) if text == UNEMBEDDABLE}
        if errors:
            raise PartialEmbeddingError(vectors, errors)
        return vectors


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, control: "Connection[Any, Any]") -> None:
        super().__init__(config)
        self._control = control

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._control.send(("ready", ""))


def run(config: ServerConfig, control: "Connection[Any, Any]") -> None:
    """The process's main function. It dies with its parent."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    log = os.open(config.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    shorten_collector_pause()
    shorten_idle_time(config.idle)
    break_statements(config.broken or "")

    @asynccontextmanager
    async def services() -> AsyncIterator[Services]:
        settings = config.settings()
        async with open_stores(settings) as stores:
            assert isinstance(stores.index, MilvusIndex)
            install(FaultInjector(control, stores.index, config.armed).hook)
            stores = dataclasses.replace(stores, late_write_window=timedelta(seconds=config.late_write_window))
            async with build_services(settings, stores, Embedder()) as opened:
                yield opened

    app = create_app(config.settings(), services())
    server = uvicorn.Config(app, uds=str(config.socket), log_level="warning", access_log=False)
    asyncio.run(_Server(server, control).serve())
