"""The server with the embedder that costs nothing: ``uvicorn scripts.benchmarks.hash_app:app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.config import Settings
from app.core.connect import open_stores
from app.core.embedding.caching_embedder import Front
from app.core.services import Services, wired
from app.main import collect_less, create_app
from scripts.benchmarks.embedders import Hashes


@asynccontextmanager
async def _services() -> AsyncIterator[Services]:
    settings = Settings()
    async with open_stores(settings) as stores, wired(settings, stores, Front(Hashes(), 0)) as services:
        collect_less()  # As app.main does for services of its own.
        yield services


app = create_app(services=_services())
