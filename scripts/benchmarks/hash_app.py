"""The server with the embedder of hashes: ``uvicorn scripts.benchmarks.hash_app:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.config import Settings
from app.core.connect import open_stores
from app.core.embedding.caching_embedder import CachingEmbedder
from app.core.services import Services, build_services
from app.main import create_app
from app.serve import tune_gc
from scripts.benchmarks.embedders import Hashes


@asynccontextmanager
async def _services() -> AsyncIterator[Services]:
    settings = Settings()
    async with (
        open_stores(settings) as stores,
        build_services(settings, stores, CachingEmbedder(Hashes(), 0)) as services,
    ):
        tune_gc()  # As app.serve does.
        yield services


app = create_app(services=_services())
