"""Builds everything that a server process or a command needs over the stores, and closes it in reverse order."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from app.config import PAID, Settings
from app.core.access.api_keys import ApiKeyAdmin, ApiKeyAuthenticator
from app.core.access.quotas import Quotas
from app.core.bots.bots import Bots
from app.core.bots.loading_index import LoadingIndex
from app.core.bots.loads import Loads
from app.core.bots.recent_vectors import RecentVectors
from app.core.connect import Stores, open_stores
from app.core.embedding.models import Models
from app.core.embedding.port import Embedder
from app.core.embedding.providers.factory import open_embedder
from app.core.embedding.providers.model_settings import settings_for
from app.core.embedding.registry import EmbedderRegistry
from app.core.embedding.service import EmbeddingService
from app.core.leases.leases import Leases
from app.core.operations.calibrate import Calibrator
from app.core.operations.copying import Copier
from app.core.operations.health import Health
from app.core.operations.index_check import IndexCheck
from app.core.operations.job_work import JobWork
from app.core.operations.jobs import Jobs
from app.core.operations.metrics_sampler import MetricsSampler
from app.core.operations.model_migration import ModelMigrator
from app.core.operations.rebuild import Rebuilder, RebuildLimit
from app.core.operations.repair import Repairer
from app.core.operations.tuning import Tuner
from app.core.operations.vector_check import VectorCheck
from app.core.operations.vector_source import EmbedderOf
from app.core.operations.verify import Verifier
from app.core.ports import VectorIndex
from app.core.search.bot_settings import BotSettings
from app.core.search.cross_encoder import CrossEncoderReranker
from app.core.search.relevance import Relevance
from app.core.search.rerank import Reranker, RerankingService
from app.core.search.search import Search
from app.core.stores.postgres.api_keys import KeyStore
from app.core.stores.postgres.backlog import BacklogStore
from app.core.stores.postgres.bots import BotStore
from app.core.stores.postgres.database import Database
from app.core.stores.postgres.documents import DocumentStore
from app.core.stores.postgres.garbage import GarbageStore
from app.core.stores.postgres.idempotency import IdempotencyStore
from app.core.stores.postgres.jobs import JobStore
from app.core.stores.postgres.listing import ListingStore
from app.core.stores.postgres.model_migrations import ModelMigrationStore
from app.core.stores.postgres.quotas import QuotaStore
from app.core.stores.postgres.rebuild import RebuildStore
from app.core.stores.postgres.statistics import StatisticsStore
from app.core.stores.postgres.streams import StreamStore
from app.core.stores.postgres.sync import SyncStore
from app.core.stores.postgres.verify import VerifyStore
from app.core.stores.postgres.writes import WriteStore
from app.core.transfer.export import Exporter
from app.core.transfer.importing import Importer
from app.core.transfer.streams import Streams
from app.core.transfer.sync import Sync
from app.core.write.bulk_throttle import BulkWriteThrottle
from app.core.write.by_filter import ByFilter
from app.core.write.documents import Documents
from app.core.write.ingest import Ingest
from app.core.write.listing import Listing
from app.core.write.recovery import Recovery
from app.core.write.retitling import Retitling
from app.core.write.saga import Saga
from app.schemas.queries import SQL
from app.schemas.rows import Bot

LARGE_ANSWER_REST, LARGE_ANSWER_MAX_REST_SECONDS = 8.0, 2.0
"""Of BulkWriteThrottle, longer than for writes: a large answer is still being written after its search has ended."""

log = logging.getLogger(__name__)

HEALTH_SECONDS = 2.0
"""How long a dependency has to answer a health check."""
KEEP_ANSWERS = timedelta(hours=24)
"""How long the answer to an Idempotency-Key can be asked for again."""
KEEP_STREAMS = timedelta(days=7)
"""How long after its last call a stream can be continued, and its results read."""


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that the API calls."""

    keys: ApiKeyAuthenticator
    key_admin: ApiKeyAdmin
    quotas: Quotas
    bots: Bots
    ingest: Ingest
    documents: Documents
    listing: Listing
    by_filter: ByFilter
    sync: Sync
    exporter: Exporter
    importer: Importer
    streams: Streams
    search: Search
    embed: EmbeddingService
    reranking: RerankingService
    models: Models
    health: Health
    verifier: Verifier
    vector_check: VectorCheck
    repairer: Repairer
    metrics_sampler: MetricsSampler
    calibrator: Calibrator
    tuner: Tuner
    bot_settings: BotSettings
    jobs: Jobs


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """All services of a server, with the background tasks running. Raises StartupError."""
    async with AsyncExitStack() as stack:
        # The embedding model loads while the stores start.
        loading = asyncio.create_task(open_embedders(settings))
        try:
            stores = await stack.enter_async_context(open_stores(settings))
            embedders = await loading
        finally:
            loading.cancel()
        stack.push_async_callback(embedders.close)
        await _warn_unnormalized(stores.db)
        reranker = None
        if settings.rerank_model or settings.rerank_url:
            reranker = await _open_reranker(settings)
            stack.push_async_callback(reranker.close)
        yield await stack.enter_async_context(
            build_services(settings, stores, embedders.current, reranker, embedders.previous)
        )


async def _warn_unnormalized(db: Database) -> None:
    row = await db.fetchrow(SQL["count_unnormalized_bots"])
    if row and row["bots"]:
        log.warning(
            "%s bots may have documents that are not in Unicode's NFC: filters on them use no index until "
            "`python -m app.cli normalize` has run",
            row["bots"],
        )


async def _open_reranker(settings: Settings) -> Reranker:
    if settings.rerank_url is None:
        assert settings.rerank_model is not None
        return await CrossEncoderReranker.open(settings.rerank_model, settings.rerank_top_n)
    from app.core.search.remote_reranker import RemoteReranker  # Imports openai.

    assert settings.rerank_api is not None
    return await RemoteReranker.open(
        settings.rerank_url,
        settings.rerank_api,
        settings.rerank_model,
        settings.rerank_top_n,
        api_key=settings.rerank_api_key.get_secret_value() if settings.rerank_api_key else None,
        timeout=settings.rerank_timeout,
    )


async def open_embedders(settings: Settings) -> EmbedderRegistry:
    """The model of EMBEDDING_MODEL and, where it is set, that of EMBEDDING_PREVIOUS_MODEL."""
    current = await open_embedder(settings)
    if settings.embedding_previous_model is None:
        return EmbedderRegistry(current)
    try:
        previous = await open_embedder(settings_for(settings, settings.embedding_previous_model))
    except BaseException:
        await current.close()
        raise
    return EmbedderRegistry(current, previous)


@asynccontextmanager
async def build_services(
    settings: Settings,
    stores: Stores,
    embedder: Embedder,
    reranker: Reranker | None = None,
    previous: Embedder | None = None,
) -> AsyncIterator[Services]:
    """The services over open stores, with leases and recovery running. ``previous``: of bots that are not migrated yet.

    ``embedder`` and ``previous`` are the models of EMBEDDING_MODEL and EMBEDDING_PREVIOUS_MODEL. Raises StartupError if
    Milvus belongs to another installation.
    """
    embedders = EmbedderRegistry(embedder, previous)
    loads = stores.loads(settings)
    index = LoadingIndex(loads)
    documents = DocumentStore(stores.db, stores.late_write_window)
    writes = WriteStore(stores.db, stores.late_write_window)
    bot_store = BotStore(stores.db, stores.late_write_window)
    keys = IdempotencyStore(stores.db, KEEP_ANSWERS)
    streams = StreamStore(stores.db, KEEP_STREAMS)
    leases = Leases(writes, settings.saga_lease_seconds)
    bots = Bots(bot_store, index, embedders, leases, deadline=settings.saga_lease_seconds, loads=loads)
    recovery = Recovery(
        writes,
        GarbageStore(stores.db),
        bot_store,
        bots,
        index.without_loading,
        leases,
        [keys, streams],
        interval=settings.recovery_interval_seconds,
        claim=settings.saga_lease_seconds,
    )
    throttle = BulkWriteThrottle()
    recent = RecentVectors(leases.token)
    generations = stores.generations()

    async def ping_milvus() -> None:
        generations.check()
        await index.ping()

    async def embedder_of(bot: Bot) -> Embedder:
        return embedders.of(bot)

    health = Health(
        {
            "postgres": lambda: stores.db.execute(SQL["ping"]),
            "milvus": ping_milvus,
            "embedder": embedder.ping,
            **({"previous_embedder": previous.ping} if previous else {}),
        },
        {"postgres": stores.db.is_full, "milvus": partial(_is_full, index)},
        timeout=HEALTH_SECONDS,
    )
    await generations.open()
    saga = Saga(writes, bots, index.without_loading, embedders, leases, throttle, generations, recent)
    verify_store = VerifyStore(stores.db, settings.saga_lease_seconds)
    verifier = Verifier(verify_store, index)
    chunks = ModelMigrationStore(stores.db, stores.late_write_window)
    limit = RebuildLimit(embedders, _paid(settings, embedders), settings.rebuild_max_chunks)
    rebuilder = Rebuilder(
        RebuildStore(stores.db),
        chunks,
        bots,
        index,
        embedders,
        Copier(chunks, verify_store, index, stores.late_write_window, "rebuild"),
        limit,
        throttle,
        lease=leases.length,
        interval=settings.recovery_interval_seconds,
        check=settings.index_check_interval_seconds,
        # A claim of garbage, then a call, which is shorter than the window, then the window.
        settling=leases.length + 2 * stores.late_write_window,
        counted=index.without_loading,
    )
    repairer = Repairer(verifier, verify_store, documents, bots, saga, index, recovery, rebuilder)
    index_check = IndexCheck(
        index,
        verify_store,
        repairer,
        interval=settings.recovery_interval_seconds,
        claim=settings.saga_lease_seconds,
    )
    statistics = StatisticsStore(stores.db)
    relevance = Relevance(statistics)
    search = Search(
        bots,
        documents,
        index,
        embedders,
        reranker,
        on_search=throttle.note_search,
        large_answers=BulkWriteThrottle(0, LARGE_ANSWER_REST, LARGE_ANSWER_MAX_REST_SECONDS),
        rebuild_error=limit.error,
        relevance=relevance,
        recent=recent,
        loads=loads,
    )
    metrics_sampler = MetricsSampler(BacklogStore(stores.db), stores.db.pool_state)
    loops = [
        leases.renew_forever(),
        recovery.run_forever(),
        index_check.run_forever(),
        relevance.refresh_forever(),
        metrics_sampler.run_forever(),
        generations.run_forever(),
        loads.run_forever(),
    ]
    if settings.index_check_interval_seconds:
        loops += [rebuilder.check_forever(), rebuilder.rebuild_forever()]
    # An external_id that a dead process holds is free by then.
    patience = settings.saga_lease_seconds + settings.recovery_interval_seconds
    ingest = Ingest(bots, documents, saga, keys, streams, patience=patience)
    vector_check = VectorCheck(verify_store, bot_store, index, embedders)
    tuner = Tuner(bots, search)
    migrator = build_migrator(settings, stores, index, leases, embedder, embedder_of)
    work = JobWork(verifier, vector_check, repairer, migrator, tuner)
    jobs = Jobs(bots, JobStore(stores.db), work, leases.length)
    of_documents = Documents(bots, documents, recovery, Retitling(bots, documents, saga))
    async with closing(loads), running(*loops), closing(jobs):
        yield Services(
            keys=ApiKeyAuthenticator(KeyStore(stores.db), settings.api_key_cache_ttl),
            key_admin=ApiKeyAdmin(KeyStore(stores.db)),
            quotas=Quotas(QuotaStore(stores.db), bot_store),
            bots=bots,
            ingest=ingest,
            documents=of_documents,
            listing=Listing(bots, ListingStore(stores.db)),
            by_filter=ByFilter(bots, documents, of_documents),
            search=search,
            sync=Sync(bots, SyncStore(stores.db, stores.late_write_window), documents, ingest, recovery),
            exporter=Exporter(bot_store, documents, index),
            importer=Importer(bots, ingest, embedders, keys, patience=patience),
            streams=Streams(bots, streams),
            embed=EmbeddingService(embedders),
            reranking=RerankingService(reranker),
            models=Models(embedders, None if reranker is None else reranker.model),
            health=health,
            verifier=verifier,
            vector_check=vector_check,
            repairer=repairer,
            metrics_sampler=metrics_sampler,
            calibrator=Calibrator(bots, search, relevance, statistics),
            tuner=tuner,
            bot_settings=BotSettings(bots, relevance),
            jobs=jobs,
        )


def build_migrator(
    settings: Settings,
    stores: Stores,
    index: VectorIndex,
    leases: Leases,
    embedder: Embedder | None,
    embedder_of: EmbedderOf,
) -> ModelMigrator:
    return ModelMigrator(
        ModelMigrationStore(stores.db, stores.late_write_window),
        BotStore(stores.db, stores.late_write_window),
        VerifyStore(stores.db, settings.saga_lease_seconds),
        index,
        embedder,
        embedder_of,
        leases,
        late_write_window=stores.late_write_window,
        # A write that has read the old row ends within its lease, or loses it.
        grace=stores.late_write_window + leases.length,
    )


@asynccontextmanager
async def closing(tasks: Jobs | Loads) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await tasks.close()


async def _is_full(index: VectorIndex) -> bool:
    return not all(collection.writable for collection in await index.unverified_collections())


def _paid(settings: Settings, embedders: EmbedderRegistry) -> frozenset[Embedder]:
    """Those of the models that a provider charges for by the text."""
    names = (settings.embedding_model, settings.embedding_previous_model or "")
    providers = [re.split("[:#]", name)[0] for name in names]
    return frozenset(each for each, name in zip(embedders, providers, strict=False) if name in PAID)


@asynccontextmanager
async def running(*loops: Coroutine[None, None, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
