"""The application: ``create_app(settings)``, and ``app`` for ``uvicorn app.main:app``."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from app.api import (
    chunks,
    collection,
    console,
    data,
    docs,
    documents,
    embeddings,
    errors,
    export,
    external_ids,
    health,
    imports,
    jobs,
    keys,
    metrics,
    openai_models,
    openapi,
    quotas,
    recent_errors,
    rerank,
    search,
    streams,
    sync,
)
from app.api.auth import Authentication
from app.api.bodies import BodyGuard
from app.api.deadline import Deadline
from app.api.deps import State
from app.api.hosts import HostGuard, allowed_hosts
from app.api.integrations import dify, mcp, vector_store_files, vector_stores
from app.api.limits import ConcurrencyLimiter, Limits
from app.api.middleware import RequestContext
from app.config import Settings
from app.core.services import Services, open_services
from app.settings_check import checked_settings, settings_warnings
from app.utils import tracing
from app.utils.errors import StartupError, TooManyReads, TooManyStreams, TooManyWrites
from app.utils.logging import configure
from app.utils.recent_errors import RecentErrors

if TYPE_CHECKING:
    from app.api.rate_limiter import RateLimiter

log = logging.getLogger(__name__)

INTEGRATIONS = (dify, vector_stores, vector_store_files, mcp)
NO_TELEMETRY: TelemetryConfig = {"auto_configure": False, "tracing": False, "metrics": False, "logs": False}
"""FastAPI's telemetry would put exceptions, and so user data, into traces. Ours is in app.utils.tracing."""


def create_app(
    settings: Settings | None = None, services: AbstractAsyncContextManager[Services] | None = None
) -> FastAPI:
    """Builds the application. Nothing is opened before its lifespan begins.

    ``services`` replaces the services that the lifespan would open from ``settings`` (for tests).
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        chosen = settings or checked_settings()
        configure(chosen.log_level, chosen.log_format)
        if settings is None:
            for line in settings_warnings():
                log.warning(line)
        async with _traced(chosen), services or open_services(chosen) as opened, mcp.mcp_sessions() as sessions:
            await _check_keys(chosen, opened)
            log.info("ready")
            yield State(
                services=opened,
                limits=_limits(chosen),
                rate_limiter=_rate_limiter(chosen),
                writes=ConcurrencyLimiter(chosen.max_concurrent_writes, TooManyWrites),
                reads=ConcurrencyLimiter(chosen.max_concurrent_reads, TooManyReads),
                streams=ConcurrencyLimiter(streams.MAX_STREAMS, TooManyStreams),
                hosts=allowed_hosts(chosen.allowed_hosts),
                authenticator=None if chosen.auth_disabled else opened.keys,
                health_open=chosen.health_open,
                docs=chosen.docs,
                console=chosen.console,
                mcp=sessions,
                recent_errors=RecentErrors(),
            )

    app = FastAPI(
        title="Chat memory",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=NO_TELEMETRY,
    )
    for middleware in (
        Deadline,
        BodyGuard,
        Authentication,
        HostGuard,
        RequestContext,
    ):  # The last one receives a request first.
        app.add_middleware(middleware)
    errors.install(app)
    # The order of the routers matters: a request is matched against the routes one after the other.
    for module in (
        search,
        data,
        documents,
        external_ids,
        chunks,
        streams,
        sync,
        collection,
        export,
        imports,
        jobs,
        keys,
        quotas,
        embeddings,
        rerank,
        openai_models,
        *INTEGRATIONS,
        health,
        recent_errors,
        metrics,
    ):
        app.include_router(module.router)
    docs.install(app)
    console.install(app)
    openapi.install(app)
    return app


async def _check_keys(settings: Settings, services: Services) -> None:
    """Raises StartupError if API keys are required and none exists."""
    if settings.auth_disabled:
        log.warning("AUTH_DISABLED=true: no API key is required, and every client that reaches the port has all rights")
    elif not await services.keys.any():
        raise StartupError(
            "There is no API key yet, so no client could call this server. Create one with "
            "python -m app.cli keys create --account NAME --scope write, or set AUTH_DISABLED=true."
        )


@asynccontextmanager
async def _traced(settings: Settings) -> AsyncIterator[None]:
    if settings.otel_exporter_otlp_endpoint is None:
        yield
        return
    tracing.start(settings.otel_exporter_otlp_endpoint)
    try:
        yield
    finally:
        await asyncio.to_thread(tracing.stop)


def _limits(settings: Settings) -> Limits:
    return Limits(
        body_bytes=settings.max_body_bytes,
        buffered_bytes=settings.max_buffered_bytes,
        documents=settings.max_documents,
        chunks=settings.max_chunks,
        text_chars=settings.max_text_chars,
        metadata_bytes=settings.max_metadata_bytes,
        body_seconds=settings.body_timeout,
        request_seconds=settings.request_timeout,
        ingest_seconds=settings.ingest_timeout,
    )


def _rate_limiter(settings: Settings) -> "RateLimiter | None":
    if settings.rate_limit is None:
        return None
    from app.api.rate_limiter import RateLimiter

    return RateLimiter(settings.rate_limit, settings.rate_limit_storage_uri)


app = create_app()
