"""Connects a process to PostgreSQL and Milvus, embedded or on servers: waits for them and migrates the schema."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from app.config import Settings
from app.core.analyzers.analyzers import lexical_text
from app.core.bots.loads import INTERVAL_SECONDS, Loads
from app.core.ports import VectorIndex
from app.core.stores.address import MilvusTls, PostgresAddress, PostgresTls
from app.core.stores.embedded.stores import embedded_stores
from app.core.stores.milvus.index import MilvusIndex
from app.core.stores.postgres.database import Database, Guards
from app.core.stores.postgres.garbage import GarbageStore
from app.core.stores.postgres.generations import GenerationStore
from app.core.stores.postgres.loads import LoadStore
from app.core.stores.postgres.migrations import bring_up_to_date
from app.core.stores.postgres.refusal import silence_of
from app.core.stores.postgres.rights import check_rights
from app.core.stores.postgres.role_settings import check_role_settings
from app.core.write.generations import Generations
from app.utils.errors import DatabaseUnavailable, StartupError, VectorIndexUnavailable
from app.utils.uris import printable

log = logging.getLogger(__name__)

MIN_CONNECTIONS = 2
"""Connections to PostgreSQL that each process keeps open."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Both stores, connected, with the newest schema."""

    db: Database
    index: VectorIndex
    late_write_window: timedelta
    """How long after the end of its call a write to Milvus may still take effect."""
    folder: str = ""
    """The id of DATA_DIR (``folder_id``) if PostgreSQL is embedded."""
    own_index: bool = False
    """Whether both stores are embedded in the same DATA_DIR."""

    def loads(self, settings: Settings) -> Loads:
        return Loads(
            self.index,
            LoadStore(self.db),
            GarbageStore(self.db),
            bound=settings.max_loaded_collections,
            settle=2 * INTERVAL_SECONDS + settings.milvus_timeout + 1,
        )

    def generations(self) -> Generations:
        return Generations(GenerationStore(self.db, self.folder), self.index.marker, own_index=self.own_index)


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Both stores: embedded ones are started if they do not run. Raises StartupError."""
    async with AsyncExitStack() as stack:
        embedded = await stack.enter_async_context(
            embedded_stores(
                settings.data_dir,
                postgres=settings.embeds_postgres,
                milvus=settings.embeds_milvus,
                database=settings.postgres_db_name,
            )
        )
        address = embedded.postgres or _postgres_address(settings)
        token = settings.milvus_token.get_secret_value() if settings.milvus_token else ""
        opening = (
            asyncio.create_task(_open_database(address, settings)),
            asyncio.create_task(_open_index(embedded.milvus_uri or settings.milvus_address or "", token, settings)),
        )
        try:
            db, index = await asyncio.gather(*opening)
        except BaseException:
            await _close_opened(opening)
            raise
        stack.push_async_callback(db.close)
        stack.push_async_callback(index.close)
        own_index = settings.embeds_postgres and settings.embeds_milvus
        yield Stores(db, index, timedelta(seconds=index.late_write_window_seconds), embedded.folder, own_index)


async def _close_opened(opening: tuple[asyncio.Task[Database], asyncio.Task[MilvusIndex]]) -> None:
    """After one of them failed: leaves no task and no connection of the other behind."""
    for task in opening:
        task.cancel()
    for opened in await asyncio.gather(*opening, return_exceptions=True):
        if not isinstance(opened, BaseException):
            await opened.close()


@asynccontextmanager
async def open_postgres(settings: Settings) -> AsyncIterator[Database]:
    """PostgreSQL without Milvus. Raises StartupError."""
    async with AsyncExitStack() as stack:
        opening = embedded_stores(
            settings.data_dir,
            postgres=settings.embeds_postgres,
            milvus=False,
            database=settings.postgres_db_name,
        )
        embedded = await stack.enter_async_context(opening)
        db = await _open_database(embedded.postgres or _postgres_address(settings), settings)
        stack.push_async_callback(db.close)
        yield db


def _postgres_address(settings: Settings) -> PostgresAddress:
    return PostgresAddress(
        host=settings.postgres_host or "",
        port=settings.postgres_port,
        user=settings.postgres_user,
        database=settings.postgres_db_name,
        password=settings.postgres_password,
        tls=PostgresTls(
            settings.postgres_sslmode,
            settings.postgres_sslrootcert,
            settings.postgres_sslcert,
            settings.postgres_sslkey,
        ),
    )


async def _open_database(address: PostgresAddress, settings: Settings) -> Database:
    """Waits for PostgreSQL, which may be starting at the same time, and brings its schema up to date."""
    reason = ""
    guards = Guards.over(settings.postgres_timeout)
    try:
        async with asyncio.timeout(settings.startup_timeout):
            while True:
                try:
                    db = await Database.connect(
                        address,
                        min_size=min(MIN_CONNECTIONS, settings.postgres_pool_max),
                        max_size=settings.postgres_pool_max,
                        timeout=settings.postgres_timeout,
                        guards=guards,
                        pooled=settings.postgres_pooler == "transaction",
                    )
                    try:
                        await check_role_settings(db, guards)
                        await bring_up_to_date(db, address)
                        await check_rights(db, address.user)
                    except BaseException:
                        await db.close()
                        raise
                    return db
                except DatabaseUnavailable as exc:
                    reason = silence_of(exc.__cause__)
                    log.info("waiting for PostgreSQL at %s:%s (%s)", address.host, address.port, reason)
                    await asyncio.sleep(0.5)
    except TimeoutError as exc:
        where = f"{address.host}:{address.port} ({reason or 'no answer in time'})"
        raise StartupError(f"PostgreSQL did not answer at {where}: check POSTGRES_HOST and POSTGRES_PORT.") from exc


async def _open_index(uri: str, token: str, settings: Settings) -> MilvusIndex:
    try:
        return await MilvusIndex.connect(
            uri,
            token,
            analyzer=lexical_text,
            database=settings.milvus_db_name or "",
            tls=MilvusTls(settings.milvus_tls_ca, settings.milvus_tls_cert, settings.milvus_tls_key),
            timeout=settings.milvus_timeout,
            wait=settings.startup_timeout,
            releases=settings.max_loaded_collections > 0,
        )
    except VectorIndexUnavailable as exc:
        tls = " (https:// where it speaks TLS)" if uri.startswith("http://") else ""
        raise StartupError(f"Milvus did not answer at {printable(uri)}: check MILVUS_HOST or MILVUS_URI{tls}.") from exc
