"""The application: ``create_app(settings)``, and ``app`` for ``uvicorn app.main:app``."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from app.api import collection, data, docs, embeddings, errors, health, openapi, search
from app.api.deps import State
from app.api.middleware import RequestContext
from app.config import Settings
from app.core.services import Services, open_services
from app.utils.logging import configure

log = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None, services: AbstractAsyncContextManager[Services] | None = None
) -> FastAPI:
    """Builds the server; nothing is opened before its lifespan begins.

    ``services`` replaces what the lifespan would open from ``settings`` (tests).
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        chosen = settings or Settings()
        configure(chosen.log_level)
        async with services or open_services(chosen) as opened:
            log.info("ready")
            yield State(services=opened)

    app = FastAPI(title="Chat memory", version="0.1.0", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(RequestContext)
    errors.install(app)
    for room in (collection, data, search, embeddings, health):
        app.include_router(room.router)
    docs.install(app)
    openapi.install(app)
    return app


app = create_app()
