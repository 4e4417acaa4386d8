"""Builds what the commands of ``app.cli`` need over the stores, with or without running servers."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.config import Settings
from app.core.access.api_keys import ApiKeyAdmin
from app.core.bots.loading_index import LoadingIndex
from app.core.connect import Stores, open_postgres, open_stores
from app.core.embedding.port import Embedder
from app.core.embedding.providers.factory import open_embedder
from app.core.embedding.providers.model_settings import settings_for
from app.core.embedding.registry import EmbedderRegistry
from app.core.leases.leases import Leases
from app.core.operations.model_migration import ModelMigrator
from app.core.operations.normalize import Normalizer
from app.core.operations.vector_check import VectorCheck
from app.core.operations.vector_source import EmbedderOf
from app.core.operations.verify import Verifier
from app.core.ports import ApiKeyPort, BotPort
from app.core.services import build_migrator, open_embedders, running
from app.core.stores.postgres.api_keys import KeyStore
from app.core.stores.postgres.bots import BotStore
from app.core.stores.postgres.documents import DocumentStore
from app.core.stores.postgres.normalize import NormalizeStore
from app.core.stores.postgres.verify import VerifyStore
from app.core.stores.postgres.writes import WriteStore
from app.core.transfer.export import Exporter
from app.core.write.generations import TakeOver
from app.schemas.rows import Bot
from app.utils.errors import ModelMismatch


@asynccontextmanager
async def open_model_migrator(settings: Settings, model: str | None, niceness: int = 0) -> AsyncIterator[ModelMigrator]:
    """For the command line, with or without running servers. ``model``: by name; None to reindex or abort.

    ``niceness`` is added to that of this process.
    """
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings))
        await stores.generations().open()
        # After the embedded stores have started, because other processes use them too. Before the model's threads are
        # created, because they inherit it.
        os.nice(niceness)
        embedder = None
        if model is not None:
            embedder = await open_embedder(settings_for(settings, model))
            stack.push_async_callback(embedder.close)
        opened: list[EmbedderRegistry] = []

        async def embedder_of(bot: Bot) -> Embedder:
            if not opened:
                opened.append(await open_embedders(settings))
                stack.push_async_callback(opened[0].close)
            return opened[0].of(bot)

        yield await stack.enter_async_context(model_migrator_over(settings, stores, embedder, embedder_of))


@asynccontextmanager
async def model_migrator_over(
    settings: Settings, stores: Stores, embedder: Embedder | None, embedder_of: EmbedderOf | None = None
) -> AsyncIterator[ModelMigrator]:
    """A migrator over open stores, whose leases are renewed. ``embedder_of``: see ModelMigrator."""

    async def unavailable(bot: Bot) -> Embedder:
        raise ModelMismatch(f"A vector of bot {bot.bot_id} is missing in Milvus, and there is no embedder.")

    leases = Leases(WriteStore(stores.db, stores.late_write_window), settings.saga_lease_seconds)
    index = LoadingIndex(stores.loads(settings))
    async with running(leases.renew_forever()):
        yield build_migrator(settings, stores, index, leases, embedder, embedder_of or unavailable)


@asynccontextmanager
async def open_keys(settings: Settings) -> AsyncIterator[ApiKeyAdmin]:
    """For the command line, with or without a running server. Needs no Milvus. Raises StartupError."""
    async with open_postgres(settings) as db:
        yield ApiKeyAdmin(KeyStore(db))


@dataclass(frozen=True, slots=True)
class BackupSource:
    """What a backup reads."""

    exporter: Exporter
    bots: BotPort
    keys: ApiKeyPort


@asynccontextmanager
async def open_backup(settings: Settings) -> AsyncIterator[BackupSource]:
    """For the command line, with or without a running server. Needs no model. Raises StartupError."""
    async with open_stores(settings) as stores:
        bots = BotStore(stores.db, stores.late_write_window)
        documents = DocumentStore(stores.db, stores.late_write_window)
        yield BackupSource(Exporter(bots, documents, LoadingIndex(stores.loads(settings))), bots, KeyStore(stores.db))


@asynccontextmanager
async def open_normalizer(settings: Settings) -> AsyncIterator[Normalizer]:
    """For the command line; servers may be running. Needs only PostgreSQL. Raises StartupError."""
    async with open_postgres(settings) as db:
        yield Normalizer(NormalizeStore(db))


@asynccontextmanager
async def open_verifier(settings: Settings) -> AsyncIterator[Verifier]:
    """For the command line, with or without a running server."""
    async with open_stores(settings) as stores:
        yield Verifier(VerifyStore(stores.db, settings.saga_lease_seconds), LoadingIndex(stores.loads(settings)))


@asynccontextmanager
async def open_vector_check(settings: Settings, allowed: float | None) -> AsyncIterator[tuple[Verifier, VectorCheck]]:
    """As ``open_verifier``, with the embedding models. ``allowed``: see ``VectorCheck``."""
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings))
        embedders = await open_embedders(settings)
        stack.push_async_callback(embedders.close)
        store, index = VerifyStore(stores.db, settings.saga_lease_seconds), LoadingIndex(stores.loads(settings))
        check = VectorCheck(store, BotStore(stores.db, stores.late_write_window), index, embedders, allowed)
        yield Verifier(store, index), check


async def open_adoption(settings: Settings, *, keep_vectors: bool) -> TakeOver:
    """Makes Milvus belong to this database, for the command line. Raises StartupError, Unavailable."""
    async with open_stores(settings) as stores:
        return await stores.generations().adopt(keep_vectors=keep_vectors)
