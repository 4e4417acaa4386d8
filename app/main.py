"""The application: ``create_app(settings)``, and ``app`` for ``uvicorn app.main:app``."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from app.api import collection, data, docs, embeddings, errors, health, metrics, openai_models, openapi, rerank, search
from app.api.auth import Authentication
from app.api.bodies import BodyGuard
from app.api.deadline import Deadline
from app.api.deps import State
from app.api.fast_route import FastRoutes
from app.api.hosts import HostGuard, allowed_hosts
from app.api.limits import ConcurrencyLimiter, Limits
from app.api.middleware import RequestContext
from app.config import Settings
from app.core.services import Services, open_services
from app.settings_check import checked_settings, settings_warnings
from app.utils import tracing
from app.utils.errors import StartupError, TooManyReads, TooManyWrites
from app.utils.logging import configure

if TYPE_CHECKING:
    from app.api.rate_limiter import RateLimiter

log = logging.getLogger(__name__)

NO_TELEMETRY: TelemetryConfig = {"auto_configure": False, "tracing": False, "metrics": False, "logs": False}
"""FastAPI's own would put exceptions, and so what users send, into traces; ours are in app.utils."""

GARBAGE_OBJECTS = 20_000
"""So many more made than let go, where Python has 700: a batch of a hundred documents had it look three times."""


def create_app(
    settings: Settings | None = None, services: AbstractAsyncContextManager[Services] | None = None
) -> FastAPI:
    """Builds the server; nothing is opened before its lifespan begins.

    ``services`` replaces what the lifespan would open from ``settings`` (tests).
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        chosen = settings or checked_settings()
        configure(chosen.log_level, chosen.log_format)
        if settings is None:
            for line in settings_warnings():
                log.warning(line)
        async with _traced(chosen), services or open_services(chosen) as opened:
            await _check_keys(chosen, opened)
            if services is None:
                tune_gc()
            log.info("ready")
            yield State(
                services=opened,
                limits=_limits(chosen),
                rate=_rate(chosen),
                writes=ConcurrencyLimiter(chosen.max_concurrent_writes, TooManyWrites),
                reads=ConcurrencyLimiter(chosen.max_concurrent_reads, TooManyReads),
                hosts=allowed_hosts(chosen.allowed_hosts),
                keys=None if chosen.auth_disabled else opened.keys,
                health_open=chosen.health_open,
                docs=chosen.docs,
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
    app.add_middleware(FastRoutes, routes=[*search.router.routes, *data.router.routes])
    for middleware in (
        Deadline,
        BodyGuard,
        Authentication,
        HostGuard,
        RequestContext,
    ):  # The last one is the first to see a request.
        app.add_middleware(middleware)
    errors.install(app)
    # A request is compared with every route before its own.
    for room in (search, data, collection, embeddings, rerank, openai_models, health, metrics):
        app.include_router(room.router)
    docs.install(app)
    openapi.install(app)
    return app


def tune_gc() -> None:
    """What is here now stays: looking through all of it for garbage takes a tenth of a second each time. And what a
    request makes is gone with it: looking for garbage among that takes a hundredth of an insert's time.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)


async def _check_keys(settings: Settings, services: Services) -> None:
    """Fails closed. Raises StartupError."""
    if settings.auth_disabled:
        log.warning("AUTH_DISABLED=true: nobody is asked for an API key, and whoever reaches the port may do all")
    elif not await services.keys.any():
        raise StartupError(
            "There is no API key yet, so nobody could call: make one with "
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
        bodies_bytes=settings.max_buffered_bytes,
        documents=settings.max_documents,
        chunks=settings.max_chunks,
        text_chars=settings.max_text_chars,
        metadata_bytes=settings.max_metadata_bytes,
        metadata_depth=settings.max_metadata_depth,
        body_seconds=settings.body_timeout,
        request_seconds=settings.request_timeout,
        ingest_seconds=settings.ingest_timeout,
    )


def _rate(settings: Settings) -> "RateLimiter | None":
    if settings.rate_limit is None:
        return None
    from app.api.rate_limiter import RateLimiter

    return RateLimiter(settings.rate_limit, settings.rate_limit_storage_uri)


app = create_app()
