"""Runs one operation in another process, which is killed at a fail point. Also stores that lose an answer."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

from app.config import Settings
from app.core.analyzers.analyzers import lexical_text
from app.core.connect import Stores
from app.core.services import Services, build_services
from app.core.stores.address import PostgresAddress
from app.core.stores.milvus.index import MilvusIndex
from app.core.stores.postgres.connection import Connection as Postgres
from app.core.stores.postgres.database import Database
from app.utils.errors import DatabaseUnavailable, VectorIndexUnavailable
from app.utils.failpoints import install
from tests.chaos.operations import NextEmbedder, Operation, Target
from tests.chaos.server import Embedder

SETTINGS = Settings(
    _env_file=None,  # type: ignore[call-arg]
    saga_lease_seconds=5,
    recovery_interval_seconds=0.02,
)


class LostReply:
    """While ``armed``, the next call to a store is carried out and its answer is lost."""

    armed = False

    def take(self) -> bool:
        armed, self.armed = self.armed, False
        return armed


LOST_REPLY = LostReply()


class LossyDatabase(Database):
    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Postgres]:
        async with super().connection() as conn:
            yield conn
        self._answer()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Postgres]:
        async with super().transaction() as conn:
            yield conn
        self._answer()

    @staticmethod
    def _answer() -> None:
        if LOST_REPLY.take():
            raise DatabaseUnavailable("PostgreSQL did not answer in time.")


class LossyIndex(MilvusIndex):
    async def create(self, *args: Any, **options: Any) -> None:
        await super().create(*args, **options)
        self._answer()

    async def load(self, *args: Any) -> None:
        await super().load(*args)
        self._answer()

    async def release(self, *args: Any) -> None:
        await super().release(*args)
        self._answer()

    async def drop(self, *args: Any) -> None:
        await super().drop(*args)
        self._answer()

    async def upsert(self, *args: Any, **options: Any) -> int:
        timestamp = await super().upsert(*args, **options)
        self._answer()
        return timestamp

    async def delete(self, *args: Any) -> None:
        await super().delete(*args)
        self._answer()

    @staticmethod
    def _answer() -> None:
        if LOST_REPLY.take():
            raise VectorIndexUnavailable("The vector index does not answer.")


@asynccontextmanager
async def stores_at(address: PostgresAddress, milvus_uri: str) -> AsyncIterator[Stores]:
    db = await LossyDatabase.connect(address, min_size=1, max_size=4, timeout=10)
    index = await LossyIndex.connect(milvus_uri, analyzer=lexical_text, timeout=10)
    try:
        yield Stores(db, index, timedelta(0))
    finally:
        await index.close()
        await db.close()


@asynccontextmanager
async def services_over(stores: Stores) -> AsyncIterator[Services]:
    async with build_services(SETTINGS, stores, Embedder(), previous=NextEmbedder()) as services:
        yield services


@dataclass(frozen=True)
class KilledOperation:
    """An operation whose process is killed at the fail point ``point``."""

    address: PostgresAddress
    milvus_uri: str
    operation: Operation
    target: Target
    point: str


def run_until_killed(killed: KilledOperation, reached: "Connection[Any, Any]") -> None:
    """The main function of the process. Sends the point to ``reached`` before it dies there."""

    async def die(point: str) -> None:
        if point == killed.point:
            reached.send(point)
            os.kill(os.getpid(), signal.SIGKILL)

    async def main() -> None:
        async with stores_at(killed.address, killed.milvus_uri) as stores, services_over(stores) as services:
            install(die)
            await killed.operation(services, stores, killed.target)

    asyncio.run(main())
